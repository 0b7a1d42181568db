"""The benchmark `recurrent`: nlpbp and fastai train one AWD-LSTM and its classifier on the same tokens of the same texts.

"ours" is what the recipe ulmfit does with the paper's sizes, "fastai" its learners for text as they come. Both read the token ids
that fastai makes of the IMDb reviews, so that vocabulary and lengths are the same; a classifier's texts are not cut. They work in
turns, the classifiers on the same documents: batches of fastai's at equal distances from its longest to its shortest. Each system's
language model and classifier have a process of their own. The classifier's warm-up is each system's batch with the longest text of
all, which sets the peak memory of an epoch.

This side starts the workers, lets one work at a time and compares; it imports the standard library only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nlpbp.benchmarks.workers import Record, answer, go, median, say, worker, write_json

SYSTEMS = ("ours", "fastai")
WORKERS = {"ours": "recurrent_worker", "fastai": "recurrent_fastai"}

TEXT_ROUNDS, LANGUAGE_MODEL_ROUNDS, CLASSIFIER_ROUNDS = 3, 5, 3
TEXT_PIECES = {"words": SYSTEMS, "subwords": ("ours",)}
LANGUAGE_MODEL_PIECES = {"block": SYSTEMS, "every_token": ("ours",)}
CLASSIFIER_PIECES = {"unfrozen": SYSTEMS, "frozen": SYSTEMS, "predict": SYSTEMS, "predict_fp32": ("ours",)}
EVERY_TOKEN = "ours without an estimate"
MAX_DIFFERENCE = 1e-5
INSTALL = "pip install -c constraints.txt '.[bench]' and then pip install --no-deps fastai==2.8.12"

Blocks = dict[str, list[Record]]  # by system


def run(out: Path, *, peer_python: str, precision: str, short: bool) -> None:
    """Compare the two systems piece by piece; write `out` after each piece.

    Raises `ConfigError` when `peer_python` has no fastai, `RuntimeError` when a model of fastai's computes something else with us.
    """
    with tempfile.TemporaryDirectory(prefix="nlpbp-benchmark-") as name:
        bench = Bench(Path(name), peer_python=peer_python, precision=precision, short=short)
        prepared = bench.ask("ours", "prepare")
        say(f"{prepared['machine']['cpu']}, {prepared['machine']['threads']} threads, {prepared['machine']['precision']}")
        told = bench.ask("fastai", "interop")
        if "missing" in told:
            from nlpbp.core.errors import ConfigError

            raise ConfigError(f"{peer_python} cannot import fastai: {told['missing']}", column="peer-python", hint=INSTALL)
        record = {**prepared, "peer": told, "interop": bench.ask("ours", "interop")}
        check_interop(record["interop"]["max_difference"])
        for measure in (measure_texts, measure_language_model, measure_classifier):
            record |= measure(bench)
            write_json(out, {"ratios": ratios(record)} | record)
    say("\n".join(in_words(ratios(record), record)))
    say(f"everything measured is in {out}" + ("; it was --short, so these numbers mean nothing" if short else ""))


class Bench:
    """Starts the two systems' workers on one folder."""

    def __init__(self, folder: Path, *, peer_python: str, short: bool, precision: str = "auto") -> None:
        self.folder, self.short = folder, short
        self._peer_python, self._precision = peer_python, precision

    def start(self, system: str, mode: str) -> Any:
        """Start a worker; what it or its libraries would leave in the user's folders goes into that of the benchmark."""
        places = {name: str(self.folder / name.lower()) for name in ("NLPBP_CACHE", "FASTAI_HOME", "MPLCONFIGDIR")}
        arguments = [WORKERS[system], str(self.folder), mode]
        if system == "fastai":
            return worker(*arguments, python=self._peer_python, environment=places)
        options = ["--precision", self._precision, *(["--short"] if self.short else [])]
        return worker(*arguments, *options, environment=places)

    def ask(self, system: str, mode: str) -> Record:
        """Let a worker do the one thing it is for."""
        with self.start(system, mode) as process:
            return answer(process)


def check_interop(max_difference: float) -> None:
    """Raise `RuntimeError` unless a model that fastai has saved computes the same when nlpbp has loaded it."""
    say(f"a model of fastai's, loaded by nlpbp, differs by {max_difference:.1e} at most")
    if not max_difference <= MAX_DIFFERENCE:
        raise RuntimeError(
            f"outputs of a model of fastai's differ by {max_difference} when nlpbp runs it; {MAX_DIFFERENCE} is the limit"
        )


def in_turns(bench: Bench, mode: str, pieces: Mapping[str, Sequence[str]], *, rounds: int, warm_up: bool) -> dict[str, Blocks]:
    """Let both systems' workers do each of the pieces, one system after the other, in every round; return the answers by piece."""
    found: dict[str, Blocks] = {}
    with ExitStack() as stack:
        processes = {system: stack.enter_context(bench.start(system, mode)) for system in reversed(SYSTEMS)}

        def do(piece: str, system: str) -> None:
            go(processes[system], piece)
            block = answer(processes[system])
            found.setdefault(piece, {}).setdefault(system, []).append(block)
            say(f"{mode}, {piece}, {system}: {block['seconds']:.1f} s{_rates(block)}; peak {block['peak_memory_mib']:,.0f} MiB")

        for system in processes if warm_up else ():
            do("warm-up", system)
        for _ in range(rounds):
            for piece, systems in pieces.items():
                for system in processes:
                    if system in systems:
                        do(piece, system)
    return found


def _rates(block: Record) -> str:
    return "".join(f", {block[name] / block['seconds']:.1f} {name}/s" for name in ("documents", "tokens") if name in block)


def measure_texts(bench: Bench) -> Record:
    """Turn all texts into token ids, a few times each; fastai's, which is first, are what everything after this reads."""
    rounds = 1 if bench.short else TEXT_ROUNDS
    return {"texts": in_turns(bench, "texts", TEXT_PIECES, rounds=rounds, warm_up=False)}


def measure_language_model(bench: Bench) -> Record:
    """Train the language models, a few steps a block."""
    rounds = 2 if bench.short else LANGUAGE_MODEL_ROUNDS
    found = in_turns(bench, "language_model", LANGUAGE_MODEL_PIECES, rounds=rounds, warm_up=True)
    parts = {system: breakdown(blocks) for system, blocks in found["block"].items()}
    return {"breakdown": parts | {EVERY_TOKEN: breakdown(found["every_token"]["ours"])}, "language_model": found}


def measure_classifier(bench: Bench) -> Record:
    """Train the classifiers on the sample, with the body and the head alone, and let them predict it."""
    rounds = 1 if bench.short else CLASSIFIER_ROUNDS
    return {"classifier": in_turns(bench, "classifier", CLASSIFIER_PIECES, rounds=rounds, warm_up=True)}


def breakdown(blocks: Sequence[Record]) -> dict[str, float | None]:
    """Return the seconds that a step spends on each of its parts, medians over blocks.

    >>> breakdown([{"steps": 2, "parts": {"forward": 3.0}}, {"steps": 2, "parts": {"forward": 4.0}}])
    {'forward': 1.75}
    """
    return {part: median([block["parts"][part] / block["steps"] for block in blocks]) for part in blocks[0]["parts"]}


def ratios(record: Record) -> Record:
    """Compare ours with fastai; what is not measured yet is None.

    tokens and documents a second: ours / theirs, the median over pairs of blocks (more than 1: ours is faster). text_preparation:
    their seconds / ours, the first time. peak_memory: ours / theirs (less than 1: ours needs less).
    """
    texts, language_model, classifier = (record.get(name, {}) for name in ("texts", "language_model", "classifier"))
    return {
        "lm_tokens_per_second": speed_ratio(language_model.get("block", {}), "tokens"),
        "lm_tokens_per_second_same_loss": speed_ratio(
            {
                "ours": language_model.get("every_token", {}).get("ours", []),
                "fastai": language_model.get("block", {}).get("fastai", []),
            },
            "tokens",
        ),
        "classifier_documents_per_second": {
            kind: speed_ratio(classifier.get(kind, {}), "documents") for kind in ("unfrozen", "frozen")
        },
        "predict_documents_per_second": speed_ratio(classifier.get("predict", {}), "documents"),
        "text_preparation": speed_ratio(texts.get("words", {}), "documents"),
        "peak_memory": {"language_model": memory_ratio(language_model), "classifier": memory_ratio(classifier)},
    }


def speed_ratio(blocks: Mapping[str, Sequence[Record]], unit: str) -> float | None:
    """Return the median over pairs of blocks of ours / theirs in `unit` a second.

    >>> speed_ratio({"ours": [{"tokens": 6, "seconds": 1.0}], "fastai": [{"tokens": 4, "seconds": 2.0}]}, "tokens")
    3.0
    """
    pairs = zip(blocks.get("ours", []), blocks.get("fastai", []), strict=True)
    return median([(ours[unit] / ours["seconds"]) / (theirs[unit] / theirs["seconds"]) for ours, theirs in pairs])


def memory_ratio(pieces: Mapping[str, Mapping[str, Sequence[Record]]]) -> float | None:
    """Return the most memory that our process held / the most that theirs did."""
    peaks = {
        system: max((block["peak_memory_mib"] for blocks in pieces.values() for block in blocks.get(system, [])), default=None)
        for system in SYSTEMS
    }
    ours, theirs = peaks["ours"], peaks["fastai"]
    return None if ours is None or theirs is None else ours / theirs


def in_words(measured: Record, record: Record) -> list[str]:
    """Say each ratio in a line, and where the time of a step of the language model goes."""
    documents, memory = measured["classifier_documents_per_second"], measured["peak_memory"]
    texts, classifier = record["texts"], record["classifier"]
    theirs, ours = (median([block["seconds"] for block in texts["words"][system]]) for system in ("fastai", "ours"))
    again = median([block["second_time_seconds"] for block in texts["words"]["ours"]])
    subwords = median([block["seconds"] for block in texts["subwords"]["ours"]])
    fp32 = speed_ratio({"ours": classifier["predict_fp32"]["ours"], "fastai": classifier["predict"]["fastai"]}, "documents")
    lines = [
        f"ours trains the language model on {measured['lm_tokens_per_second']:.2f} times as many tokens a second as fastai "
        f"({measured['lm_tokens_per_second_same_loss']:.2f} with its loss, over every token)",
        f"ours trains the whole classifier on {documents['unfrozen']:.2f} times as many documents a second as fastai",
        f"ours trains the classifier's head alone on {documents['frozen']:.2f} times as many documents a second as fastai",
        f"ours predicts {measured['predict_documents_per_second']:.2f} times as many documents a second as fastai "
        f"({fp32:.2f} in fp32)",
        f"fastai takes {measured['text_preparation']:.2f} times as long as ours to turn the texts into ids "
        f"({theirs:.1f} s, ours {ours:.1f} s, with the cache {again:.1f} s; byte pairs {subwords:.1f} s)",
        f"ours needs {memory['language_model']:.2f} times the peak memory of fastai for the language model",
        f"ours needs {memory['classifier']:.2f} times the peak memory of fastai for the classifier",
    ]
    for system, parts in record["breakdown"].items():
        words = ", ".join(f"{part} {value:.2f} s" for part, value in parts.items())
        lines.append(f"a step of the language model, {system}: {words}")
    return [*lines, "(our decoder's gradients are made along with the loss, and are in its time)"]
