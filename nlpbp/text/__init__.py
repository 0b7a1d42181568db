"""Tokens, batches and models for text."""
