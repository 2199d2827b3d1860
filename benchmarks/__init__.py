"""Measurements anyone can repeat: `make bench`. Ratios against a baseline in the same run, never absolute promises."""
