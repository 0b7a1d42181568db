"""The training loop, evaluation, precision and tracking, on accelerate."""
