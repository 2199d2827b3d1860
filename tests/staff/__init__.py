"""Staff access."""
