"""Polling sources: what they know of sales is fetched on a schedule, and each item is an event like a pushed one."""
