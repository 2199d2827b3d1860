"""Real faults in real servers and processes; see the `fault` marker."""
