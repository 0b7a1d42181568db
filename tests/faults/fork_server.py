"""A process that imports everything once and then forks for each line of its standard input: see `harness.Forks`."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import children

    gc.freeze()
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            answer = wait(job["wait"], job["timeout"])
        else:
            answer = os.fork()
            if answer == 0:
                run(children, job)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def wait(pid: int, timeout: float) -> int:
    """Return the exit code, the negative number of the signal, or 999 for a process that did not end."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 999


def run(children: Any, job: dict[str, Any]) -> None:
    """Do the job in this forked process and leave with the code that a script would leave with."""
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    error_file = os.open(f"{job['log']}.error", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    code = 0
    try:
        getattr(children, job["do"])(**job["args"])
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:
        code = error.code if isinstance(getattr(error, "code", None), int) and isinstance(error, ValueError) else 1
        found = {name: getattr(error, name, None) for name in ("code", "file", "row", "column", "message")}
        os.write(error_file, json.dumps({"type": type(error).__name__, "text": str(error), **found}, default=str).encode())
        os.write(log, traceback.format_exc().encode(errors="replace"))
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        pass
    os._exit(code)


if __name__ == "__main__":
    main()
