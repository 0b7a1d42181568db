"""Fixtures of the injections, and the running count that ends a test run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import harness
from catalogue import ROWS

OUTCOMES: dict[str, set[str]] = {}  # by row: how its tests ended, in whichever process


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(id): injects the row of that id in the catalogue of faults")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    report.user_properties += [("fault", mark.args[0]) for mark in item.iter_markers("fault")]
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for name, row in report.user_properties:
        if name == "fault" and (report.when == "call" or not report.passed):
            OUTCOMES.setdefault(str(row), set()).add(report.outcome)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not OUTCOMES:
        return
    ran = {row for row, outcomes in OUTCOMES.items() if outcomes != {"skipped"}}
    good = {row for row in ran if OUTCOMES[row] <= {"passed", "skipped"}}
    elsewhere = sum(row.cannot_run_here is not None for row in ROWS)
    left = len(ROWS) - len(ran) - elsewhere
    others = [f"{left} not in this run (slow, or not chosen)"] if left else []
    others += [f"{elsewhere} cannot run here"] if elsewhere else []
    terminalreporter.write_line(f"faults: {len(ran)} injected, {len(good)} as expected")
    terminalreporter.write_line(f"        of {len(ROWS)} rows; {'; '.join(others)}")
    if ran - good:
        terminalreporter.write_line(f"        not as expected: {', '.join(sorted(ran - good, key=_order))}")


def _order(row: str) -> tuple[str, int]:
    return row[0], int(row[1:])


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("faults") / "whole"
    harness.train(out)
    return out


@pytest.fixture(scope="session")
def total_steps(whole: Path) -> int:
    return len(harness.steps_of(whole))


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Forks]:
    """Processes in milliseconds: see `harness.Forks`."""
    server = harness.Forks(tmp_path_factory.mktemp("forks"))
    yield server
    server.close()


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """A file that code in a data file would make if it ran; it must not be there when the test ends."""
    path = tmp_path / "EXECUTED"
    yield path
    assert not path.exists(), "code from a file was executed"


@pytest.fixture
def offline_sockets(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Refuse every connection of this process; the list holds what was tried."""
    import socket

    tried: list[Any] = []

    def refuse(self: Any, address: Any) -> None:
        tried.append(address)
        raise OSError(101, "Network is unreachable")

    def no_name(host: Any, *args: Any, **options: Any) -> Any:
        tried.append(host)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    return tried
