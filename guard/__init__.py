"""The guard's API and the project's wiring."""

__version__ = "0.2.0"
