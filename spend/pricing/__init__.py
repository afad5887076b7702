"""What a call costs: the catalogue, the prices in force, the bounds that are learned."""
