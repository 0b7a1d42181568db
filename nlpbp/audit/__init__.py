"""Findings about data: duplicates, leaks, label errors, broken texts."""
