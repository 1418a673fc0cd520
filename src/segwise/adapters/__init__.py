"""Adaptations, one a file: CARD and apply(parts, ...) -> Parts."""
