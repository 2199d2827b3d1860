"""Mirrors app/services/orders."""
