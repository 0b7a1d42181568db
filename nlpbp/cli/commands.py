"""The names that the program `nlpbp` goes by: its commands, its own flags, the shells that complete them."""

COMMANDS = {
    "finetune": ("nlpbp.cli.finetune", "finetune", "fine-tune a model with a recipe"),
    "predict": ("nlpbp.cli.predict", "answer", "predict on new texts or images with a finished run, or an ensemble of several"),
    "audit": ("nlpbp.cli.audit", "audit", "audit a data set before training on it"),
    "check": ("nlpbp.cli.check", "check", "check a model or a run for violated practices"),
    "lr-find": ("nlpbp.cli.lr_find", "lr_find", "find a learning rate for a recipe and a data set"),
    "report": ("nlpbp.cli.report", "report", "write the report of a run again, or compare two runs"),
    "benchmark": ("nlpbp.cli.benchmark", "benchmark", "benchmark nlpbp against other libraries"),
}
"""Each command: the module and the function that do it, and a line on it. Nothing is imported before it is chosen."""

COMPLETIONS = {
    "bash": "~/.local/share/bash-completion/completions/nlpbp",
    "zsh": '"${fpath[1]}/_nlpbp"',
    "fish": "~/.config/fish/completions/nlpbp.fish",
}
"""Where each shell looks for a program's completions; zsh in the folders of `fpath`, of which the first can be another."""

FLAGS = ("--help", "--version", "--print-completion")
"""The program's own flags."""
