"""Request and response models of the HTTP contract, one file per domain."""
