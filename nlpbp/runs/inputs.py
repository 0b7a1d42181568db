"""The data of a run: read alike in all processes, said in the log, audited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from accelerate.utils import gather_object

from nlpbp.config import BasicSettings, Data, Texts
from nlpbp.core.errors import DistributedError, NlpbpError
from nlpbp.data.corpus import Corpus, load_corpus
from nlpbp.data.parts import Inputs, load_inputs
from nlpbp.runs.audit import audit_corpus, audit_inputs
from nlpbp.runs.folder import Run
from nlpbp.tasks.task import get_task


class Loaded(Protocol):
    """What processes compare before they train together."""

    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def labels(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def notes(self) -> tuple[str, ...]: ...  # noqa: D102


L = TypeVar("L", bound=Loaded)


def read_inputs(run: Run[BasicSettings], data: Data) -> Inputs:
    """Read the parts of a text classifier, say what was inferred, and audit them.

    Raises `DataError` with file, row and column for whatever cannot be read as it should.
    """
    inputs = the_same_everywhere(run, lambda: load_inputs(data))
    check_labels(run, inputs, data.label_order)
    audit_inputs(run, inputs, max_length=data.max_length)
    return inputs


def read_corpus(run: Run[BasicSettings], data: Texts) -> Corpus:
    """Read the texts of a language model in the same way."""
    corpus = the_same_everywhere(run, lambda: load_corpus(data))
    audit_corpus(run, corpus)
    return corpus


def check_labels(run: Run[Any], inputs: Inputs, label_order: tuple[str, ...]) -> None:
    """Raise `ConfigError` for labels that cannot be those of the task; warn of an order that it does not learn."""
    task = get_task(inputs.fields.task)
    task.check_labels(inputs.labels, bool(label_order))
    if label_order and not task.is_ordered:
        run.say(f"warning: {task.name} ignores the order of the labels; --data.task ordinal learns it")


def the_same_everywhere(run: Run[Any], load: Callable[[], L]) -> L:
    """Load in every process and say what was inferred; an error in one, or data that differ, is an error in all.

    Without this a process that cannot read its data would leave the others waiting for it.
    """
    inputs, error = None, None
    try:
        inputs = load()
    except NlpbpError as caught:
        error = caught
    if run.accelerator.num_processes > 1:
        told = gather_object([(error, inputs and (inputs.fingerprint, inputs.labels))])
        error = next((other for other, _ in told if other is not None), None)
        seen = [identity for _, identity in told]
        if error is None and len(set(seen)) > 1:
            error = DistributedError(f"the processes read different data: {seen[0]} and {next(s for s in seen if s != seen[0])}")
    if error is not None:
        raise error
    assert inputs is not None, "loaded or failed"
    for note in inputs.notes:
        run.say(note)
    return inputs
