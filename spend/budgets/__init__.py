"""Budgets as they stand, whom they refuse, and what needs an operator."""
