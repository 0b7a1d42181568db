"""What recipes are built on: training a classifier or a language model, stage by stage."""
