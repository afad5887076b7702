"""The views, one module a subject: each parses, calls one function and shapes the answer."""
