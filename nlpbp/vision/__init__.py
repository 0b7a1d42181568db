"""Building blocks for images, on the same core as texts."""
