"""The double-entry ledger: the only code that writes transfers, postings and wallets."""

from app.services.ledger.post import Entry, InsufficientBalanceError, Line, credit, debit, post, post_all

__all__ = ["Entry", "InsufficientBalanceError", "Line", "credit", "debit", "post", "post_all"]
