"""Mirrors app/services/webhooks."""
