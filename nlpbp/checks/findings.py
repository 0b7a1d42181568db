"""The findings of all rules: the practice, the place, why it matters, and the fix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One violation that a rule has found.

    `practice` is its id in the README's table. A "warning" is for problems that harm training or invalidate a score; a "note" for
    those that cost little, or may be intended. `module` is the dotted name of the module or parameter ("model" for the whole
    model), or a file of the run.

    >>> print(Finding("A1", "warning", "head.2", "a softmax before the loss", "remove it"))
    warning A1, head.2: a softmax before the loss. Fix: remove it
    """

    practice: str
    level: Level
    module: str
    message: str
    fix: str

    def __str__(self) -> str:
        return f"{self.level} {self.practice}, {self.module}: {self.message}. Fix: {self.fix}"
