"""Webhooks: take in (verify, store, answer), then process (read, attribute, apply), and look after the inbox."""
