"""Optimizers: one file each, which registers itself."""
