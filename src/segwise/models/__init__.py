"""Models, one a file: CARD and load(...) -> Segmenter."""
