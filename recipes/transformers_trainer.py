"""The same practices inside `transformers.Trainer`: layer groups, schedule, freezing, and the rate from a sweep.

python scripts/finetune.py transformers_trainer --data.train reviews.csv

It shows that each practice is a function that any loop can call. Trainer keeps its own checkpoints, which are turned off here: this
recipe is a demonstration, and does not go on when it is killed. For a run that does, take transformer_sentiment.
"""
