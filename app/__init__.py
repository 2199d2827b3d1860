"""Cashback platform backend: catalogue, clicks, webhooks, orders, a double-entry ledger and feed syncs."""
