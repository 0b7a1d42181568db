"""Rules that find what breaks a practice in a model, an optimizer, batches or a run."""
