"""SetFit at work for the benchmark `outcome`, in an environment that needs nothing of ours: setfit, and what it brings.

It is started by its path, as `python outcome_setfit.py FOLDER`; see `outcome_worker`. SetFit runs as its documentation has it: its
own default for whatever is not given.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def work(folder: Path) -> None:
    """Do the cell in `folder`."""
    import numpy as np
    import torch
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments  # type: ignore[import-not-found]

    cell = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    several, num_labels = cell["task"] == "multi_label", len(cell["labels"])
    torch.set_num_threads(cell["threads"])
    model = SetFitModel.from_pretrained(cell["model"], multi_target_strategy="one-vs-rest" if several else None)
    model.model_body.max_seq_length = cell["max_length"]
    targets = [[int(label in row) for label in range(num_labels)] if several else row[0] for row in cell["train_targets"]]
    used = sorted({label for row in cell["train_targets"] for label in row})
    if several:  # one classifier a label: it cannot be fitted to a label without an example
        targets = [[row[label] for label in used] for row in targets]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder / "setfit"), seed=cell["seed"], save_strategy="no", report_to="none"),
        train_dataset=Dataset.from_dict({"text": cell["train_texts"], "label": targets}),
    )
    trainer.train()
    if several:
        outputs = np.asarray(model.predict_proba(cell["test_texts"], as_numpy=True))
        answers = [[used[index] for index in np.flatnonzero(row > 0.5)] for row in outputs]
    else:
        answers = [[int(label)] for label in model.predict(cell["test_texts"], as_numpy=True)]
    (folder / "answers.json").write_text(json.dumps({"answers": answers}), encoding="utf-8")


if __name__ == "__main__":
    work(Path(sys.argv[1]))
