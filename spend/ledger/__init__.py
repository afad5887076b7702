"""The ledger: its rules, its one writer, its audit."""
