"""Calling providers, and what their answers and errors mean."""
