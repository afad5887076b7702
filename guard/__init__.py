"""The guard's API and the project's wiring."""

__version__ = "0.1.0"
