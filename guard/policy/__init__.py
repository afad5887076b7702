"""What is allowed now, and which models may serve: the policy in memory and the rules over it."""
