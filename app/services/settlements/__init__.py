"""What networks paid: statements recorded, compared with what was owed, and reconciled."""
