"""Payouts: methods, requests, decisions, and the two ways money leaves: a file for the bank, or a provider's API."""
