"""Self-contained HTML pages, and what builds them."""
