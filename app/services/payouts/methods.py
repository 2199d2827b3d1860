"""Payout methods: where a customer wants the money."""

from app.services.payouts.accounts import PayoutAccount, open_method

__all__ = ["PayoutAccount", "open_method"]
