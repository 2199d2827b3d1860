"""What is kept about a customer: exported on demand, erased when the account is closed. See docs/privacy.md."""
