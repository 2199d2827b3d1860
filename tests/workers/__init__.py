"""Mirrors app/workers/."""
