"""Plans, tasks and records, and the append-only store of results."""
