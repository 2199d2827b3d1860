"""Mirrors app/services/sync, app/workers/sync.py and both routers."""
