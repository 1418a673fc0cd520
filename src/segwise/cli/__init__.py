"""The command line: parse, call, show. What it does stands in `segwise.api`; nothing here is imported by a library."""
