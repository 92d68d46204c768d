"""A course in which one builds a transformer, and that checks itself."""
