"""A model as an HTTP service: read `engine`, then `schema`, `answers`, `app`, `server`."""
