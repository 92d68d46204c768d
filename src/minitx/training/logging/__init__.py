"""Loggers: one file each, which registers itself."""
