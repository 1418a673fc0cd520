"""Published claims."""
