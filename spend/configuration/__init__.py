"""The configuration as a file that a shop keeps: written (`export`), compared and taken in (`plan`).

What is in it: tenants with their budgets, routes, downgrades and alert channels, those of the whole
installation, operators' own prices, and roles. Never in it: keys, tokens, people, a channel's secret or the
address of a webhook, which may be its password.

A file says what it names and no more: rows that it does not name stay as they are, and so does each field that
it leaves out. A route, downgrades, a price's tiers and a role's permissions are one value each, taken as a whole.
"""
