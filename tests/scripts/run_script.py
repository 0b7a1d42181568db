"""Run the project's scripts as a user does: in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TWO_PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def run_script(
    name: str, *arguments: str, cwd: Path, launcher: list[str] | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run scripts/NAME.py with `arguments` in `cwd`."""
    command = [sys.executable, *(launcher or []), str(ROOT / "scripts" / f"{name}.py"), *arguments]
    stdin = env.pop("stdin", "")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo", **env}
    given = {"input": stdin, "text": True, "errors": "surrogateescape"}  # half of a surrogate pair stands for a byte
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, timeout=120, **given)
