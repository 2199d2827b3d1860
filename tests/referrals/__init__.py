"""Mirrors app/services/referrals."""
