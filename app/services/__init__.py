"""Business rules: functions that take a session and plain values, and know neither HTTP nor the queue."""
