"""A process that imports everything once and forks for each script that a test runs: see `run_script`.

A script runs in its fork as in a new Python: its own arguments, environment, folder and files, and Python's own end.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import sys
import time
from typing import Any

SECONDS = 120  # a script may take


def main() -> None:
    import recipes

    for name in [*recipes.RECIPES, "matplotlib.figure", "tyro"]:
        importlib.import_module(recipes.RECIPES[name][0] if name in recipes.RECIPES else name)
    gc.freeze()
    for line in sys.stdin:
        job = json.loads(line)
        children = []
        for environment in job["environments"]:
            children.append(os.fork())
            if children[-1] == 0:
                become(job, environment)
                return
        sys.stdout.write(f"{wait(children)}\n")
        sys.stdout.flush()


def become(job: dict[str, Any], environment: dict[str, str]) -> None:
    """Be the script in this forked process; its exceptions and exits are those of the process."""
    for number, file in enumerate(job["files"]):
        os.dup2(os.open(file, os.O_RDWR | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(job["cwd"])
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.argv, sys.path[0] = job["command"], os.path.dirname(job["command"][0])
    runpy.run_path(job["command"][0], run_name="__main__")


def wait(children: list[int]) -> int:
    """Return the exit code of the first child that failed, after which the others are ended as a launcher does, or 0."""
    deadline, code = time.monotonic() + SECONDS, 0
    while children:
        for child in children.copy():
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                children.remove(child)
                code = code or os.waitstatus_to_exitcode(status)
        if code or time.monotonic() > deadline:
            for child in children:
                os.kill(child, signal.SIGTERM if code else signal.SIGKILL)
                code = code or os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            return code
        time.sleep(0.005)
    return code


if __name__ == "__main__":
    main()
