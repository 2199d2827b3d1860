"""What `make check` runs that no library's own command does."""
