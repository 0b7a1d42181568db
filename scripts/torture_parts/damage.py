"""Damaged checkpoints: a flipped bit, a file cut short, a file that is gone; each is noticed, and the one before is used."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torture_parts.kills import killed_run
from torture_parts.victims import Claim, Torture

from nlpbp.core.errors import CheckpointError
from nlpbp.train.checkpoint import newest_checkpoint

NUM_FLIPS = 1000
ITSELF, BEFORE = "itself", "the one before"


def prove(torture: Torture) -> list[Claim]:
    """Damage the newest of two checkpoints in every way, and look which one is loaded."""
    out = killed_run(torture, torture.config(), "flips", at=14)
    older, newest = sorted((out / "checkpoints").glob("step-????????"))[-2:]
    untouched = _verdict(newest, older)
    flips = [_flip(newest, older, rng=random.Random(f"{torture.seed}/flips/{index}")) for index in range(NUM_FLIPS)]
    bits = [] if torture.short else list(_every_bit(newest, older, names=("MANIFEST.json", "state.json")))
    cuts = [_cut(newest, older, file=file, percent=percent) for file in _files(newest) for percent in range(0, 100, 5)]
    missing = [_remove(newest, older, file=file) for file in _files(newest)]
    sets = [
        (f"one flipped bit in any of {len(_files(newest))} files", flips, f"{torture.seed}/flips/0..{NUM_FLIPS - 1}"),
        ("each single bit of MANIFEST.json and state.json flipped", bits, "exhaustive"),
        ("each file cut at every 5 %", cuts, "exhaustive"),
        ("each file missing", missing, "exhaustive"),
    ]
    control = f"the untouched one, before and after: {untouched}, {_verdict(newest, older)}"
    holds = untouched == _verdict(newest, older) == ITSELF
    loads = sum(loaded for _, _, loaded in flips)
    in_weights = sum(".safetensors" in name for name, _, _ in flips)
    without = f"{control}; without the manifest {loads} of {in_weights} flips in weights load"
    return [
        *(
            Claim(
                part="damage",
                text=f"{text}: noticed, never loaded",
                held=sum(verdict != ITSELF for _, verdict, _ in found),
                of=len(found),
                seeds=seeds,
                control=without if found is flips else control,
                control_held=holds and (found is not flips or loads > 0),
                failures=tuple(f"{name}: {verdict}" for name, verdict, _ in found if verdict == ITSELF),
            )
            for text, found, seeds in sets
            if found
        ),
        Claim(
            part="damage",
            text="after any of this the checkpoint before is used, without a human",
            held=sum(verdict == BEFORE for _, found, _ in sets for _, verdict, _ in found),
            of=sum(len(found) for _, found, _ in sets),
            seeds=sets[0][2],
            control=f"both cut short: {_both_cut(newest, older)}",
            control_held=_both_cut(newest, older).startswith("refused"),
            failures=tuple(f"{name}: {verdict}" for _, found, _ in sets for name, verdict, _ in found if verdict != BEFORE),
        ),
    ]


def _both_cut(newest: Path, older: Path) -> str:
    file = "model.safetensors"
    with _damaged(newest / file, b""), _damaged(older / file, b""):
        return _verdict(newest, older)


def _files(checkpoint: Path) -> list[Path]:
    return sorted(checkpoint.iterdir())


def _verdict(newest: Path, older: Path) -> str:
    """Ask for the newest checkpoint and say which one comes; put the folder back as it was."""
    try:
        identity = json.loads((older / "MANIFEST.json").read_text(encoding="utf-8"))["identity"]
        found = newest_checkpoint(newest.parent, identity=identity)
        answer = "none" if found is None else {newest: ITSELF, older: BEFORE}[found.path]
    except CheckpointError as error:
        answer = f"refused, needs a human: {error.message}"
    for rejected in newest.parent.glob("step-*.rejected-*"):
        os.rename(rejected, rejected.with_name(rejected.name.partition(".")[0]))
    return answer


@contextmanager
def _damaged(file: Path, content: bytes | None) -> Iterator[None]:
    """Let a file have other content, or be gone, for a while."""
    before = file.read_bytes()
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(before)


def _flip(newest: Path, older: Path, *, rng: random.Random) -> tuple[str, str, bool]:
    """Flip one bit of one file: in half of the cases any byte is as likely, in the others any file."""
    files = _files(newest)
    weights = [file.stat().st_size for file in files] if rng.random() < 0.5 else None
    (file,) = rng.choices(files, weights)
    content = bytearray(file.read_bytes())
    position, bit = rng.randrange(len(content)), rng.randrange(8)
    content[position] ^= 1 << bit
    with _damaged(file, bytes(content)):
        return f"{file.name}, byte {position}, bit {bit}", _verdict(newest, older), _loads_anyway(file)


def _loads_anyway(file: Path) -> bool:
    """Tell whether a safetensors file opens and gives all its tensors although it is damaged."""
    if file.suffix != ".safetensors":
        return False
    try:
        with safe_open(file, framework="pt") as tensors:
            return all(tensors.get_tensor(name) is not None for name in tensors.keys())  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError):
        return False


def _every_bit(newest: Path, older: Path, *, names: tuple[str, ...]) -> Iterator[tuple[str, str, bool]]:
    for name in names:
        content = (newest / name).read_bytes()
        for position in range(len(content)):
            for bit in range(8):
                flipped = bytearray(content)
                flipped[position] ^= 1 << bit
                with _damaged(newest / name, bytes(flipped)):
                    yield f"{name}, byte {position}, bit {bit}", _verdict(newest, older), False


def _cut(newest: Path, older: Path, *, file: Path, percent: int) -> tuple[str, str, bool]:
    content = file.read_bytes()
    with _damaged(file, content[: len(content) * percent // 100]):
        return f"{file.name} cut at {percent} %", _verdict(newest, older), False


def _remove(newest: Path, older: Path, *, file: Path) -> tuple[str, str, bool]:
    with _damaged(file, None):
        return f"{file.name} missing", _verdict(newest, older), False
