"""Pieces that views in a terminal are made of: curves, maps, labels, units, safe text."""
