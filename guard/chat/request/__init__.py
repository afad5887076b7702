"""Reading and checking a chat request, in either shape."""
