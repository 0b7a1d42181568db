"""What `nlpbp benchmark` measures: nlpbp beside what people use today, in turns on one machine.

A module for each benchmark; those that compare memory let each side work in a process of its own (`workers`), which runs its
worker's file by its path: `recurrent_fastai` also where nothing of ours is installed.
"""
