"""Orders: folded from reports, explained to the customer, and mirrored in the ledger."""
