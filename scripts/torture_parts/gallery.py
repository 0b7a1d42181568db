"""Malicious files, each put where the product would read it: nothing in them is executed, and each is refused in words.

The payloads lie in `tests/assets/malicious/`, where a README says what each is. Those that can be executed touch the file that
NLPBP_MARKER names.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torture_parts import victims
from torture_parts.forks import UNTYPED, End, in_parallel, run_forked
from torture_parts.kills import killed_run
from torture_parts.victims import Claim, Torture
from transformers import AutoConfig, AutoTokenizer

from nlpbp.config import files as config_files
from nlpbp.inference import trained
from nlpbp.modalities import encoding
from nlpbp.runs import folder
from nlpbp.train import checkpoint
from nlpbp.train.setup import start

ASSETS = Path(__file__).parents[2] / "tests" / "assets" / "malicious"
PICKLES = ("pickle_text.bin", "pickle_binary.bin")
HEADERS = ("header_length_100_mb.bin", "header_length_huge.bin", "header_overlap.bin", "header_past_end.bin")
NESTED = "nested.json"  # deeper than a parser can follow; the one payload that is not a file
STDIN = b"y\n" * 20  # transformers asks "run the custom code? [y/N]"; nobody may answer by accident
CARELESS = {"trust_remote_code": True}  # for the control alone: what nlpbp never says
MOST_GROWTH = 512  # MiB of memory that reading a small file may take
LIMIT = 20.0  # seconds after which reading a small file counts as hanging


@dataclass(frozen=True)
class Case:
    """A payload in a place: how to put it there, and how the product comes to read it.

    It has to be refused with an `NlpbpError`, unless it `may_pass`: then reading may also do without it and end well. Of a run that
    does, the result must be that of the uninterrupted one, but for the files that `may_differ`.
    """

    name: str
    place: Callable[[Path], Any]
    read: Callable[[Path], Any]
    may_pass: bool = False
    run: str | None = None  # where that run is, below the folder
    may_differ: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sources:
    """What payloads are put into: an unfinished run, a finished one, a model folder, a cache of tokens."""

    unfinished: Path
    finished: Path
    model: Path
    tokens: Path


def prove(torture: Torture) -> list[Claim]:
    """Let the product read every payload in every place, in a child with a time and a memory limit."""
    config = torture.config(epochs=1, eval_steps=3)
    finished, _ = torture.reference(config, "gallery-finished")
    unfinished = killed_run(torture, config, "gallery-unfinished", at=9)
    sources = Sources(unfinished, finished, model=folder.CACHE / "tiny-bert", tokens=folder.CACHE / "tokens")
    cases = list(all_cases(torture, config, sources))
    baseline = run_forked(lambda: None, output=torture.scratch / "gallery-nothing.log").peak_mib
    attempt = partial(_attempt, torture, cases, finished, baseline)
    found = in_parallel(attempt, range(len(cases)), jobs=torture.jobs, scratch=torture.scratch, title="malicious files")
    live = live_payloads(torture, sources)
    executed = [answer["name"] for answer in found if answer["executed"]]
    wrong = [f"{answer['name']}: {answer['wrong']}" for answer in found if answer["wrong"]]
    errors = [answer for answer in found if answer["code"]]
    notes = {
        "slowest error, seconds": max((answer["seconds"], answer["name"]) for answer in errors),
        "most memory, MiB": max((answer["growth_mib"], answer["name"]) for answer in errors),
        "cases": {answer["name"]: answer["said"] for answer in found},
    }
    common: dict[str, Any] = {"part": "gallery", "of": len(cases), "seeds": "literal files"}
    return [
        Claim(
            text=f"a malicious file in any place that is read: nothing executed ({len(cases)} cases)",
            held=len(cases) - len(executed),
            control=f"read as its format allows: {sum(live.values())} of {len(live)} payloads execute",
            control_held=all(live.values()),
            failures=tuple(executed),
            notes={**notes, "live": live},
            **common,
        ),
        Claim(
            text=f"and it ends in one of nlpbp's errors, or what it stood for is made again, within {MOST_GROWTH} MiB",
            held=len(cases) - len(wrong),
            control=f"an exception of another kind: exit {(other := run_forked(_fail, output=torture.scratch / 'fail.log').code)}",
            control_held=other == UNTYPED,
            failures=tuple(wrong),
            **common,
        ),
    ]


def _fail() -> None:
    raise RuntimeError("on purpose")


def _attempt(torture: Torture, cases: list[Case], finished: Path, baseline: float, index: int) -> dict[str, Any]:
    """Put a payload into its place, let it be read, and judge what happened."""
    case, out = cases[index], torture.scratch / f"gallery-{index}"
    marker = torture.scratch / f"marker-{index}"
    case.place(out)

    def read() -> None:
        os.environ["NLPBP_MARKER"] = str(marker)
        victims.keep_last_state()
        case.read(out)

    end = run_forked(read, output=out.with_name(f"{out.name}.log"), stdin=STDIN, limit=LIMIT)
    growth = end.peak_mib - baseline
    wrong = _wrong(case, end, out, finished)
    if end.code and growth > MOST_GROWTH:
        wrong = f"took {growth:.0f} MiB"
    said = f"exit {end.code}: {end.last_line.replace(str(torture.scratch), '...')[:300]}"
    victims.remove(out)
    return {
        "name": case.name,
        "executed": marker.exists(),
        "wrong": wrong,
        "code": end.code,
        "seconds": round(end.seconds, 2),
        "growth_mib": round(growth),
        "said": said,
    }


def _wrong(case: Case, end: End, out: Path, finished: Path) -> str:
    if end.killed:
        return f"still busy after {LIMIT:.0f} seconds"
    if end.code:
        return "" if end.code in (2, 3, 4) else f"not one of nlpbp's errors: {end.last_line}"
    if not case.may_pass:
        return "accepted"
    differing = [] if case.run is None else victims.differing_files(out / case.run, finished)
    return ", ".join(f"{name} differs" for name in differing if name not in case.may_differ)


def all_cases(torture: Torture, config: Any, sources: Sources) -> Iterable[Case]:
    """List every payload in every place that can hold it."""
    yield from _checkpoint_cases(torture, config, sources)
    yield from _run_folder_cases(torture, config, sources)
    yield from _data_cases(torture, config)
    yield from _token_cache_cases(torture, config, sources)
    if hasattr(getattr(config, "model", None), "name"):
        yield from _model_cases(torture, config, sources)
    yield from _predict_cases(sources)


def payload(name: str) -> bytes:
    """Return the bytes of a payload."""
    return b"[" * 100_000 + b"]" * 100_000 if name == NESTED else (ASSETS / name).read_bytes()


def _go_on(torture: Torture, config: Any, out: Path) -> None:
    torture.recipe.run(replace(config, out=str(out)))


def _checkpoint_cases(torture: Torture, config: Any, sources: Sources) -> Iterable[Case]:
    """In place of a file of every checkpoint: as it is, and with a manifest that its author has made fit it."""
    go_on = partial(_go_on, torture, config)
    for file in ("model.safetensors", "optim.safetensors", "best.safetensors", "state.json", "MANIFEST.json"):
        for name in (*PICKLES, *(HEADERS if file.endswith(".safetensors") else [NESTED])):
            place = partial(_into_checkpoints, sources.unfinished, file, payload(name))
            yield Case(f"{name} as {file} of a checkpoint", partial(place, signed=False), go_on)
            if file != "MANIFEST.json":
                unread: dict[str, Any] = (
                    {"may_pass": True, "run": ""} if file == "best.safetensors" else {}
                )  # a later step may be better
                yield Case(f"{name} as {file} of a checkpoint, manifest made to fit", partial(place, signed=True), go_on, **unread)


def _into_checkpoints(source: Path, file: str, content: bytes, out: Path, *, signed: bool) -> None:
    shutil.copytree(source, out)
    for path in (out / "checkpoints").glob("step-????????"):
        (path / file).write_bytes(content)
        if signed:
            manifest = json.loads((path / checkpoint.MANIFEST).read_text(encoding="utf-8"))
            manifest["files"][file] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            del manifest["digest"]
            checkpoint._write_json(path / checkpoint.MANIFEST, manifest)


def _run_folder_cases(torture: Torture, config: Any, sources: Sources) -> Iterable[Case]:
    """In place of the other files of an unfinished run."""
    go_on = partial(_go_on, torture, config)
    for name in (*PICKLES, "object_apply.yaml", "laughs.yaml"):
        place = partial(_copy_with, sources.unfinished, "config.yaml", payload(name))
        yield Case(f"{name} as config.yaml of a run", place, go_on)
        yield Case(f"{name} as --config", place, lambda out: config_files.load(type(config), out / "config.yaml"))
    for name in (*PICKLES, NESTED):
        for file in ("environment.json", "metrics.jsonl"):
            place = partial(_copy_with, sources.unfinished, file, payload(name))
            # What a log no longer holds is lost; it must not stop the run.
            yield Case(f"{name} as {file} of a run", place, go_on, may_pass=True, run="", may_differ=("metrics.jsonl",))


def _copy_with(source: Path, file: str, content: bytes, out: Path) -> None:
    shutil.copytree(source, out)
    (out / file).parent.mkdir(parents=True, exist_ok=True)
    (out / file).write_bytes(content)


def _data_cases(torture: Torture, config: Any) -> Iterable[Case]:
    """As the training data."""
    for suffix in ("csv", "tsv", "txt", "json", "jsonl", "parquet"):
        for name in (*PICKLES, *([NESTED] if suffix.startswith("json") else [])):
            place = partial(_write, f"data.{suffix}", payload(name))
            yield Case(f"{name} as data.{suffix}", place, partial(_train_on, torture, config))
    extension = partial(_write, "data.parquet", extension_parquet())
    yield Case("a pickled Arrow extension type in data.parquet", extension, partial(_train_on, torture, config))


def _write(file: str, content: bytes, out: Path) -> None:
    out.mkdir()
    (out / file).write_bytes(content)


def _train_on(torture: Torture, config: Any, out: Path) -> None:
    (file,) = out.iterdir()
    torture.recipe.run(replace(config, data=replace(config.data, train=str(file)), out=str(out / "run")))


def _token_cache_cases(torture: Torture, config: Any, sources: Sources) -> Iterable[Case]:
    """In place of every file of the token cache."""

    def go_on(out: Path) -> None:
        # The cache is what the folder was prepared with; the run goes beside it.
        victims.replace_function(encoding, "CACHE", out / "cache")
        spoiled = {file: file.read_bytes() for file in (out / "cache" / "tokens").iterdir()}
        torture.recipe.run(replace(config, out=str(out)))
        if all(file.read_bytes() == content for file, content in spoiled.items()):
            raise RuntimeError("the run has read none of them")

    def place(content: bytes, out: Path) -> None:
        shutil.copytree(sources.tokens, out / "cache" / "tokens")
        for file in (out / "cache" / "tokens").iterdir():
            file.write_bytes(content)

    for name in (*PICKLES, *HEADERS):
        yield Case(f"{name} as a file of the token cache", partial(place, payload(name)), go_on, may_pass=True, run="")


def _model_cases(torture: Torture, config: Any, sources: Sources) -> Iterable[Case]:
    """In a model folder that a run starts from."""

    def train(out: Path) -> None:
        torture.recipe.run(replace(config, model=replace(config.model, name=str(out)), out=str(out / "run")))

    for name, place in _model_folders(sources.model):
        yield Case(f"{name} of a model to train", place, train, may_pass="tokenizer_config" in name, run="run")
    for name, content in {"pickle_text.bin": payload("pickle_text.bin"), "zipped": torch_zip(payload("pickle_text.bin"))}.items():
        place = partial(_without_safetensors, sources.model, content)
        yield Case(f"{name} as pytorch_model.bin of a model to train", place, train)


def _model_folders(model: Path, under: str = "") -> Iterable[tuple[str, Callable[[Path], None]]]:
    """List the ways to spoil a model folder, which lies `under` the folder that is copied."""
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        for name in (*PICKLES, *(HEADERS if file == "model.safetensors" else ())):
            yield f"{name} as {file}", partial(_copy_with, model, f"{under}{file}", payload(name))
        if file.endswith(".json"):
            yield f"{NESTED} as {file}", partial(_copy_with, model, f"{under}{file}", payload(NESTED))
    yield "auto_map in config.json", partial(_with_code, model, under, "config.json", "remote_code_config.json")
    yield (
        "auto_map in tokenizer_config.json",
        partial(_with_code, model, under, "tokenizer_config.json", "remote_code_tokenizer.json"),
    )


def _with_code(model: Path, under: str, file: str, asset: str, out: Path) -> None:
    _copy_with(model, f"{under}{file}", payload(asset), out)
    (out / under / "marker_code.py").write_bytes(payload("marker_code.py.txt"))


def _without_safetensors(model: Path, content: bytes, out: Path) -> None:
    _copy_with(model, "pytorch_model.bin", content, out)
    (out / "model.safetensors").unlink()


def _predict_cases(sources: Sources) -> Iterable[Case]:
    """In a finished run that is asked for predictions."""

    def load(out: Path) -> None:
        trained.load_run(out, accelerator=start(seed=0, precision="fp32", threads=1))

    for name, place in _model_folders(sources.finished, under="model/"):
        yield Case(f"{name} of a model to predict with", place, load, may_pass="tokenizer_config" in name)
    for name in (*PICKLES, NESTED):
        place = partial(_copy_with, sources.finished, "result.json", payload(name))
        yield Case(f"{name} as result.json of a run to predict with", place, load)


def torch_zip(pickled: bytes) -> bytes:
    """Wrap a pickle as `torch.save` does."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


def extension_parquet() -> bytes:
    """Return a Parquet file whose text column claims a Python extension type, which old readers unpickle (CVE-2023-47248)."""
    metadata = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": payload("pickle_binary.bin")}
    schema = pa.schema([pa.field("text", pa.string(), metadata=metadata), pa.field("label", pa.string())])
    buffer = io.BytesIO()
    pq.write_table(pa.table([["good film"], ["pos"]], schema=schema), buffer)
    return buffer.getvalue()


def live_payloads(torture: Torture, sources: Sources) -> dict[str, bool]:
    """Execute each payload that can be executed, as careless readers would; tell which of them touched the marker."""
    found = {}
    unsafe_yaml = "import sys, yaml; yaml.unsafe_load(open(sys.argv[1]))"
    readers = {"object_apply.yaml": ["-c", unsafe_yaml]} | {name: ["-m", "pickle"] for name in PICKLES}
    for name, reader in readers.items():
        marker = torture.scratch / f"live-{name}"
        environment = {**os.environ, "NLPBP_MARKER": str(marker)}
        subprocess.run([sys.executable, *reader, str(ASSETS / name)], env=environment, capture_output=True, check=False)
        found[name] = marker.exists()
    for name, auto in (("remote_code_config.json", AutoConfig), ("remote_code_tokenizer.json", AutoTokenizer)):
        out, marker = torture.scratch / f"live-folder-{name}", torture.scratch / f"live-{name}"
        _with_code(sources.model, "", "tokenizer_config.json" if "tokenizer" in name else "config.json", name, out)

        def execute(out: Path = out, marker: Path = marker, auto: Any = auto) -> None:
            os.environ["NLPBP_MARKER"] = str(marker)
            auto.from_pretrained(out, **CARELESS)

        run_forked(execute, output=torture.scratch / f"live-{name}.log")
        found[name] = marker.exists()
    return found
