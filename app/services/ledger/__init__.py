"""The double-entry ledger: the only code that writes transfers, postings and wallets."""

from app.services.ledger.post import Line, credit, debit, post

__all__ = ["Line", "credit", "debit", "post"]
