"""What all addresses share: who calls, how bodies are read, how errors and events look."""
