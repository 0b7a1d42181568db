"""Secrets stay out of what a run writes: tokens by their form, and the values of environment variables that are named like one."""

from __future__ import annotations

import os
import re
from typing import Any, TypeVar

T = TypeVar("T")

REDACTED = "[redacted]"
NAMES = ("TOKEN", "KEY", "SECRET", "PASSWORD")
MIN_LENGTH = 8  # shorter values of such variables ("true", "4096") stand in too many innocent places
FORMS = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{30,}"  # Hugging Face
    r"|AKIA[0-9A-Z]{16}"  # AWS
    r"|sk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic
    r"|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}"  # GitHub
    r")"
)


def redact(value: T) -> T:
    """Replace secrets in a text, or in every text (keys too) of plain data; numbers are never touched.

    >>> redact({"model": "hf_" + 34 * "a", "epochs": 3})
    {'model': '[redacted]', 'epochs': 3}
    """
    return _redact(value, _known_secrets())


def _redact(value: Any, known: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return FORMS.sub(REDACTED, known.sub(REDACTED, value))
    if isinstance(value, dict):
        return {_redact(key, known): _redact(item, known) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_redact(item, known) for item in value)
    return value


def _known_secrets() -> re.Pattern[str]:
    """Match the values of variables that are named like a secret; the place where one is kept is none."""
    values = {value.strip() for name, value in os.environ.items() if any(word in name.upper() for word in NAMES)}
    secrets = [value for value in values if len(value) >= MIN_LENGTH and not (os.path.isabs(value) and os.path.exists(value))]
    longest_first = sorted(secrets, key=lambda secret: (-len(secret), secret))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
