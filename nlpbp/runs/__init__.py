"""A run folder, from its first step to its report."""
