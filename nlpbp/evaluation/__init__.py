"""Metrics with intervals, and the baselines that every result stands beside."""
