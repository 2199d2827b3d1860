"""Claims for missing cashback, and the orphan queue."""
