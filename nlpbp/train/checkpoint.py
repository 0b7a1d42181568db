"""Checkpoints that are complete or not there: a folder of safetensors and JSON with a manifest of hashes, renamed into place.

    step-00000123/   model.safetensors  optim.safetensors  [best.safetensors]  state.json  MANIFEST.json

Nothing here is pickled. What does not verify is set aside under another name, never deleted, and never loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nlpbp import __version__
from nlpbp.core.errors import CheckpointError
from nlpbp.train.weights import save_tensors

FORMAT_VERSION = 1
KEEP = 2  # whatever else is asked for: one good checkpoint must survive the loss of another
MANIFEST = "MANIFEST.json"
NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: where it is, the step it was taken after, and the plain data saved with it."""

    path: Path
    step: int
    state: dict[str, Any]
    rejected: tuple[str, ...] = ()  # newer ones that were set aside, and why

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Load one of its safetensors files."""
        try:
            return load_file(self.path / name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{name} cannot be read: {error}", file=str(self.path), hint="resume from an earlier one"
            ) from error


def write_checkpoint(
    root: Path,
    *,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    files: Mapping[str, Path],
    state: Mapping[str, Any],
    identity: Mapping[str, str],
    keep: int = KEEP,
) -> Path:
    """Write a checkpoint under `root` and then remove all but the newest `keep` that verify (two at least).

    `tensors` are files to write, `files` existing ones to copy in; `state` is JSON data; `identity` names what the checkpoint
    belongs to (data, labels, tokenizer ...) and is compared when it is read. Raises `CheckpointError` for weights that are not
    finite, `OSError` when the disk fails; the earlier checkpoints are untouched then.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> given = {"files": {}, "state": {"best": None}, "identity": {"config": "abc"}}
    >>> path = write_checkpoint(root, step=5, tensors={"model.safetensors": {"w": torch.ones(2)}}, **given)
    >>> found = newest_checkpoint(root, identity={"config": "abc"}); found.step, found.tensors("model.safetensors")["w"].tolist()
    (5, [1.0, 1.0])
    """
    _refuse_non_finite(step, tensors["model.safetensors"])
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"step-{step:08d}"
    temporary = root / f"{final.name}.tmp-{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        for name, content in tensors.items():
            save_tensors(content, temporary / name)
        for name, source in files.items():
            shutil.copyfile(source, temporary / name)  # not a link: damage to one checkpoint must not reach the other
        _write_json(temporary / "state.json", dict(state))
        for file in sorted(temporary.iterdir()):
            _fsync(file)
        hashes = {file.name: {"size": file.stat().st_size, "sha256": _sha256(file)} for file in sorted(temporary.iterdir())}
        _write_json(
            temporary / MANIFEST, {**_header(step, tensors["model.safetensors"]), "identity": dict(identity), "files": hashes}
        )
        _fsync(temporary / MANIFEST)
        _fsync(temporary)
        if final.exists():  # the same step, written before a resume from an earlier one
            _remove(final)
        os.rename(temporary, final)
        _fsync(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _rotate(root, keep=max(KEEP, keep))
    return final


def newest_checkpoint(root: Path, *, identity: Mapping[str, str]) -> Checkpoint | None:
    """Return the newest checkpoint that verifies, or None when there has been none yet.

    Others are renamed to `*.rejected-<reason>`; leftovers of a save that was interrupted are removed. Raises `CheckpointError`
    when there are candidates and none verifies (those that were set aside before count: a second attempt must not start over), or
    when the one that does belongs to something else than `identity`.
    """
    if not root.is_dir():
        return None
    for leftover in [*root.glob("step-*.tmp-*"), *root.glob(".trash-*")]:
        shutil.rmtree(leftover, ignore_errors=True)
    reasons: list[str] = []
    for path in _candidates(root):
        reason = find_fault(path)
        if reason is None:
            _compare(path, identity)
            try:
                manifest, state = (json.loads((path / name).read_text(encoding="utf-8")) for name in (MANIFEST, "state.json"))
            except (ValueError, RecursionError) as error:
                raise CheckpointError(
                    f"its state is not JSON: {error}", file=str(path), hint="resume from an earlier one"
                ) from error
            return Checkpoint(path, manifest["step"], state, tuple(reasons))
        os.rename(path, path.with_name(f"{path.name}.rejected-{secrets.token_hex(2)}-{re.sub(r'[^a-z]+', '-', reason)[:60]}"))
        reasons.append(f"{path.name}: {reason}")
    reasons = reasons or sorted(path.name for path in root.glob("step-*.rejected-*"))
    if reasons:
        raise CheckpointError(
            f"none of the checkpoints verifies ({'; '.join(reasons)})",
            file=str(root),
            hint="restore a copy of one, or start again with another --out",
        )
    return None


def find_fault(path: Path) -> str | None:
    """Say why a checkpoint folder cannot be trusted, or None when every byte is as it was written."""
    if path.is_symlink():
        return "it is a link to somewhere else"
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        version, files = manifest["format_version"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "no readable manifest"
    if _digest(manifest) != manifest.get("digest"):  # before the version: a flipped bit in it is damage, not another format
        return "the manifest was changed"
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"made by nlpbp {manifest.get('nlpbp_version')} in format {version}; this is {__version__}, format {FORMAT_VERSION}",
            file=str(path),
            hint="resume with the version that wrote it",
        )
    try:
        return next((fault for name, expected in files.items() if (fault := _file_fault(path, name, expected))), None)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _file_fault(path: Path, name: str, expected: Mapping[str, Any]) -> str | None:
    file = path / name
    if Path(name).name != name or not file.is_file() or file.is_symlink():
        return f"missing {name}"
    if file.stat().st_size != expected["size"]:
        return f"wrong size of {name}"
    return None if _sha256(file) == expected["sha256"] else f"wrong hash of {name}"


def needed_bytes(tensors: int, *, keep: int = KEEP) -> int:
    """Return the disk space that checkpoints of `tensors` bytes take: those kept, and the one being written.

    >>> needed_bytes(100)
    300
    """
    return tensors * (max(KEEP, keep) + 1)


def _candidates(root: Path) -> list[Path]:
    """List checkpoint folders, newest first by the step in their name: clocks and file times mean nothing."""
    return sorted((path for path in root.iterdir() if NAME.fullmatch(path.name)), key=lambda path: path.name, reverse=True)


def _header(step: int, model: Mapping[str, Tensor]) -> dict[str, Any]:
    shapes = {name: [str(tensor.dtype).removeprefix("torch."), *tensor.shape] for name, tensor in model.items()}
    return {
        "format_version": FORMAT_VERSION,
        "nlpbp_version": __version__,
        "torch_version": torch.__version__,
        "step": step,
        "parameters": shapes,
    }


def _compare(path: Path, identity: Mapping[str, str]) -> None:
    saved = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["identity"]
    changed = [name for name in identity if saved.get(name) != identity.get(name)]
    if changed:
        differences = "; ".join(f"{name} was {saved.get(name)} and is {identity.get(name)}" for name in changed)
        raise CheckpointError(
            f"the checkpoint belongs to another run: {differences}",
            file=str(path),
            column=changed[0],
            hint="go back to what it was, or start another run with another --out",
        )


def _rotate(root: Path, *, keep: int) -> None:
    """Remove the oldest checkpoints, once `keep` newer ones are known to be good."""
    good = 0
    for path in _candidates(root):
        if good >= keep:
            _remove(path)
        elif find_fault(path) is None:
            good += 1


def _remove(path: Path) -> None:
    """Rename before deleting, so that no half-deleted folder has the name of a checkpoint."""
    trash = path.with_name(f".trash-{secrets.token_hex(4)}-{path.name}")
    os.rename(path, trash)
    shutil.rmtree(trash, ignore_errors=True)


def _refuse_non_finite(step: int, model: Mapping[str, Tensor]) -> None:
    if name := first_non_finite(model):
        raise CheckpointError(
            f"{name} is not finite after step {step}: nothing was saved", hint="resume from the checkpoint before"
        )


def first_non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name the first tensor that holds a value which is not finite, or None.

    >>> first_non_finite({"a": torch.ones(1), "b": torch.tensor([float("nan")])})
    'b'
    """
    return next((name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()), None)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    if path.name == MANIFEST:
        data = {**data, "digest": _digest(data)}
    path.write_text(json.dumps(data, indent=1), encoding="utf-8")


def _digest(manifest: Mapping[str, Any]) -> str:
    """Hash a manifest without its own digest, so that a flipped bit in it shows too."""
    data = {name: value for name, value in manifest.items() if name != "digest"}
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
