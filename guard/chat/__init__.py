"""A guarded call, from the request to its settlement."""
