"""Run the project's scripts as a user does: in a process of their own, or in several that see each other."""

from __future__ import annotations

import atexit
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
TWO_PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
Done = subprocess.CompletedProcess[str]


def run_script(name: str, *arguments: str, cwd: Path, launcher: list[str] | None = None, processes: int = 1, **env: str) -> Done:
    """Run scripts/NAME.py with `arguments` in `cwd`.

    It runs in forks of a process that has imported everything, or, with a launcher (an empty one too), in a Python that starts.
    """
    command = [str(ROOT / "scripts" / f"{name}.py"), *arguments]
    stdin = env.pop("stdin", "").encode(errors="surrogateescape")  # half of a surrogate pair stands for a byte
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo", **env}
    if launcher is None:
        return _in_forks(command, cwd=cwd, stdin=stdin, environments=_joined(environment, processes=processes))
    command = [sys.executable, *launcher, *command]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, timeout=120, input=stdin, check=False)
    return Done(command, done.returncode, *(text.decode(errors="surrogateescape") for text in (done.stdout, done.stderr)))


def _joined(environment: dict[str, str], *, processes: int) -> list[dict[str, str]]:
    """Return the environment of each process, with the variables that a launcher sets where there are several."""
    if processes == 1:
        return [environment]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    size = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
    return [{**environment, **place, **size, "RANK": str(n), "LOCAL_RANK": str(n)} for n in range(processes)]


def _in_forks(command: list[str], *, cwd: Path, stdin: bytes, environments: list[dict[str, str]]) -> Done:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdin", "stdout", "stderr")]
        for file in files:
            file.write_bytes(stdin if file.name == "stdin" else b"")
        job = {"command": command, "cwd": str(cwd), "files": [str(file) for file in files], "environments": environments}
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(f"{json.dumps(job)}\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return Done(command, code, *(file.read_text(errors="surrogateescape") for file in files[1:]))


@functools.cache
def _server() -> subprocess.Popen[str]:
    script = Path(__file__).with_name("script_server.py")
    server = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)  # at the end of its input it ends
    return server
