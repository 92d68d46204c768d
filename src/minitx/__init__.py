"""minitx: build, train, resume, run, measure and look inside a small transformer."""

__version__ = "0.1.0"
