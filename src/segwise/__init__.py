"""Segwise: generalist or specialist? Compare segmentation models on your own CT and MR volumes."""

__version__ = "0.1.0"
