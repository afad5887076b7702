"""Alerts: found out, put into words, delivered."""
