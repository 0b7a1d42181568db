"""The notebook of the documentation runs from its first cell to its last, without a network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOK = Path(__file__).parent.parent / "docs" / "quickstart.ipynb"
SECONDS = 120  # a cell may take: the page promises less for all of them


def execute(notebook: Any, folder: Path) -> Any:
    """Run every cell in a kernel of its own that stands in `folder`, and return the notebook with its outputs."""
    client = nbclient.NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(folder)}})
    return client.execute(env={**os.environ, "HF_HUB_OFFLINE": "1"})


def shown(notebook: Any, source: str) -> str:
    """Return all text that the cell with `source` in it prints or shows."""
    (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and source in cell.source]
    texts = [output.get("text", "") for output in cell.outputs]
    return "\n".join(texts + [output["data"].get("text/plain", "") for output in cell.outputs if "data" in output])


def test_the_notebook_runs_and_its_model_beats_chance(tmp_path: Path) -> None:
    done = execute(nbformat.read(NOTEBOOK, as_version=4), tmp_path)
    assert float(shown(done, "classifier.score").split()[-1]) > 0.6  # after a progress bar
    assert "tf-idf" in shown(done, "result.baselines")
    assert "with interval" in shown(done, "result.baselines")
    assert (tmp_path / "runs" / "transformer_sentiment-1" / "result.json").is_file()


def test_a_cell_that_fails_is_noticed(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        execute(notebook, tmp_path)


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.cell_type == "code" and (cell.outputs or cell.execution_count)]
