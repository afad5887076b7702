"""A customer's data and what was said: kept encrypted, shown, erased."""
