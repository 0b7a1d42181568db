"""The command line: a module for each command of `nlpbp`, and what they share in `parsing`.

`main` dispatches. What is heavy is imported once a command knows what to do, so that help answers at once.
"""
