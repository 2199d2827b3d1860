"""Job workers: thin tasks that load by id, guard on status, call a service, and are safe to run twice."""
