"""`python -m nlpbp` is the program `nlpbp`, and what `accelerate launch -m nlpbp` starts."""

from nlpbp.cli.main import main

if __name__ == "__main__":
    main("python -m nlpbp")
