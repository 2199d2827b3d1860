"""Mirrors app/services/ledger."""
