"""The books beside the provider's own figures: from its report or a file of its invoice, by day and model."""
