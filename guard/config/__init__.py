"""The installation: its environment, what it lacks, its log lines, its admin's look."""
