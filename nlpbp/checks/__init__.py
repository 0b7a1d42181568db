"""Rules that find violations of the practices in a model, an optimizer, batches or a run."""
