"""Wrappers, one a file: CARD and wrap(segmenter, ...) -> Segmenter."""
