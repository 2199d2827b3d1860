"""The whole life of money."""
