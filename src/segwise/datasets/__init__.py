"""Layouts of data sets, one a file: CARD, recognises(root) and cases(root, split)."""
