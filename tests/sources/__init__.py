"""Mirrors app/services/sources, with what every network is known to send."""
