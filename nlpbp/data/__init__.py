"""Strict readers, columns and labels, splits, samples, and the order in which examples are seen."""
