"""How long rows stay, and where their room goes."""
