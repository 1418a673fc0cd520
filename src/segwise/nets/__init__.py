"""Torch modules: tensor in, tensor out. One architecture a file; no volumes, no prompts in mm, no files."""
