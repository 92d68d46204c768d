"""Views of an evaluation: progress, the report, the passages that surprised a model."""
