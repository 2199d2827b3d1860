"""What others do, as small programs: the same answers without, or with the usual way of, everything around them."""

# Signs the tokens of `printed_pattern`; at least 32 bytes, or the library would warn of each.
PRINTED_SECRET = "of-a-benchmark-that-runs-on-loopback-only"
