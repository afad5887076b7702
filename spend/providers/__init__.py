"""Providers as calls reach them: their rows, the settings and the kept keys put together, and whether they work."""
