"""An audit hook that sees every file operation of a process before it happens, and kills the process at a chosen one.

None is forgotten when the code changes; a write is also cut in its middle.
"""

from __future__ import annotations

import builtins
import io
import os
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet
import safetensors.torch
from torture_parts import victims

EVENTS = {"os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}


class Watch:
    """Writes each file operation in `folder` to `trace` before it is done, and kills the process at number `kill_at`."""

    def __init__(self, folder: Path, trace: Path, *, kill_at: int = 0) -> None:
        self.folder, self.kill_at = f"{folder}/", kill_at
        self.count, self.active = 0, True
        self.trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)

    def begin(self) -> None:
        """See operations from now on, in this process, to its end."""
        sys.addaudithook(self.audit)
        sync, opened = os.fsync, io.open

        def fsync(descriptor: int) -> None:
            self.reach("fsync", _path_of(descriptor))
            sync(descriptor)

        def opens(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            handle = opened(file, mode, *rest, **named)
            if set(mode) & set("wax+") and not isinstance(file, int) and self.name(file) is not None:
                victims.replace_function(handle, "write", partial(self.cut_write, handle.write, handle.flush, file))
            return handle

        victims.replace_function(os, "fsync", fsync)
        for module in (io, builtins):
            victims.replace_function(module, "open", opens)
        # These write outside Python.
        for owner, name in ((safetensors.torch, "serialize_file"), (pyarrow.parquet, "write_table"), (shutil, "copyfile")):
            victims.replace_function(owner, name, partial(self.cut_call, getattr(owner, name)))

    def audit(self, event: str, given: tuple[Any, ...]) -> None:
        """Take what Python says of an operation before it does it."""
        if not self.active or (event != "open" and event not in EVENTS):
            return
        if event == "open":
            if not isinstance(given[0], int) and given[2] & (os.O_WRONLY | os.O_RDWR):
                self.reach("open", given[0])
        elif event in ("os.rename", "os.link", "os.symlink"):
            self.reach(event[3:], given[0], given[1])
        else:
            folder = given[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
            self.reach(event[3:], given[0] if folder == -1 else Path(_path_of(folder), os.fsdecode(given[0])))

    def cut_write(self, write: Callable[[Any], int], flush: Callable[[], None], file: Any, content: Any) -> int:
        """Write half, let it reach the file, then the rest."""
        self.reach("write", file)
        write(content[: len(content) // 2])
        flush()
        self.reach("half", file)
        write(content[len(content) // 2 :])
        return len(content)

    def cut_call(self, function: Callable[..., Any], given: Any, file: Any, **named: Any) -> Any:
        """Call what writes a whole file; a kill at "half" leaves half of it."""
        self.reach("write", file)
        made = function(given, file, **named)
        self.reach("half", file, tear=lambda: os.truncate(file, os.stat(file).st_size // 2))
        return made

    def reach(self, operation: str, *paths: Any, tear: Callable[[], None] | None = None) -> None:
        """Note an operation in the folder, and end the process if it is the one."""
        names = [self.name(path) for path in paths]
        if not self.active or names[-1] is None:
            return
        self.count += 1
        os.write(self.trace, f"{operation} {' -> '.join(str(name) for name in names)}\n".encode())
        if self.count == self.kill_at:
            self.active = False
            if tear is not None:
                tear()
            victims.kill_myself()

    def name(self, path: Any) -> str | None:
        """Name a path inside the folder, what is random in it as *; None for one outside."""
        text = os.fsdecode(path)
        return re.sub(r"(tmp|trash)-[0-9a-f]{8}", r"\1-*", text.removeprefix(self.folder)) if text.startswith(self.folder) else None


def _path_of(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # not Linux: the operation is not seen
        return ""
