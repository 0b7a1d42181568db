"""Strict readers, columns and labels, splits, samples, and the order of examples in training."""
