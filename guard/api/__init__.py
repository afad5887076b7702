"""The REST API beside the chat paths: budgets, tenants, keys, the catalogue, spend and health."""
