"""Loading in several processes: the same data everywhere, or one error everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from accelerate.utils import gather_object

from nlpbp.core.errors import DistributedError, NlpbpError
from nlpbp.runs.folder import Run


class Loaded(Protocol):
    """What processes compare before they train together."""

    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def labels(self) -> tuple[str, ...]: ...  # noqa: D102


L = TypeVar("L", bound=Loaded)


def the_same_everywhere(run: Run, load: Callable[[], L]) -> L:
    """Load in every process; an error in one of them, or data that differ between them, is an error in all.

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
    return inputs
