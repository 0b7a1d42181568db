"""Findings about data: copies, leaks, doubtful labels, broken texts."""
