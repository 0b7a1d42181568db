"""What a fit or a prediction leaves as it was: the caller's random numbers, threads and output."""

from __future__ import annotations

import contextlib
import io
import os
import random
import threading
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from transformers.utils import logging

LOCK = threading.RLock()  # a run sets seeds and threads of the whole process: one at a time


@contextlib.contextmanager
def undisturbed(*, verbose: bool = True, report: bool = True) -> Iterator[None]:
    """Run the block alone, and give random states and threads back as they were; without `verbose` nothing is printed.

    Without `report` a run in it leaves no `report.html`, which takes a second and can be made later.

    >>> before = torch.initial_seed()
    >>> with undisturbed(verbose=False):
    ...     _ = torch.manual_seed(before + 1); print("not seen")
    >>> torch.initial_seed() == before
    True
    """
    output = contextlib.nullcontext() if verbose else _quiet()
    with LOCK, _kept_randomness(), _environment("NLPBP_REPORT", None if report else "off"), output:
        yield


@contextlib.contextmanager
def _kept_randomness() -> Iterator[None]:
    states = random.getstate(), np.random.get_state(), torch.get_num_threads()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_num_threads(states[2])


@contextlib.contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Print nothing; warnings are given on afterwards."""
    caught: list[warnings.WarningMessage] = []
    level = logging.get_verbosity()
    try:
        with (
            warnings.catch_warnings(record=True) as caught,
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            logging.set_verbosity_error()  # its handler has a stream of its own
            yield
    finally:
        logging.set_verbosity(level)
        for one in caught:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
