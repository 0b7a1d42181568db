"""Answers for new data with a saved run."""
