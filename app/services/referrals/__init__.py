"""Referrals: a bonus to both sides once the invited customer has a payable order that counts."""

from app.services.referrals.invite import invite
from app.services.referrals.settle import follow_order

__all__ = ["follow_order", "invite"]
