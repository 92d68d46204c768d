"""The exercises, one a file: a page, a solution, and below the mark what the judge reads."""
