"""The double-entry ledger: the only code that writes transfers, postings and wallets."""

from app.services.ledger.post import InsufficientBalanceError, Line, credit, debit, note_paid, post

__all__ = ["InsufficientBalanceError", "Line", "credit", "debit", "note_paid", "post"]
