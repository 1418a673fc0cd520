"""Procedural volumes: shapes, phantoms, image formation, corruptions."""
