"""What the pages show, as files: CSV, a month's ledger, FOCUS."""
