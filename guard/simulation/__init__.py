"""What would happen to a call now, found out without making it."""
