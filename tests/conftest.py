"""Tests never reach for the network, and write nothing outside their own folders."""

from __future__ import annotations

import gc
import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NLPBP_CACHE"] = tempfile.mkdtemp(prefix="nlpbp-tests-")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait slow down whatever shares their cores
os.environ.setdefault("ACCELERATE_MIXED_PRECISION", "bf16")  # not measured, so that tests do the same on every machine
os.environ.setdefault("NLPBP_REPORT", "off")  # a second a run, and there are hundreds; the tests of reports turn them on
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import tyro  # noqa: F401 (its import hashes all builtins, and a doctest leaves its last value in `builtins._`, hashable or not)


def pytest_collection_finish() -> None:
    """Spare the garbage collector, which every run calls, the half a million objects of the libraries that tests have imported."""
    gc.collect()
    gc.freeze()
