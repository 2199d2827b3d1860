"""Rules that hold orders for a person to look at. Cashback of a held order stays pending, and is never payable."""
