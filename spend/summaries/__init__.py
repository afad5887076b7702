"""Sums of what was spent, derived from the ledger."""
