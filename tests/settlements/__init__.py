"""Mirrors app/services/settlements/, and the release of what waits for a settlement."""
