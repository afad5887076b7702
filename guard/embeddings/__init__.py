"""`POST /v1/embeddings`: the guarded call of a model that makes vectors of texts."""
