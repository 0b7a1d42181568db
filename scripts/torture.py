"""Prove that runs survive: kills, damaged and malicious files, resumes from every step; each claim beside a negative control.

python scripts/torture.py                          # 1,000 kills and everything else exhaustively: minutes on 2 cores
python scripts/torture.py --short --out out.json   # under two minutes
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nlpbp.cli.parsing import run_command

RECIPES = ("transformer_sentiment",)
"""The recipes whose tiny form is tortured."""
PARTS = ("kills", "operations", "damage", "resumes", "gallery")
EXIT_BROKEN = 1  # a claim did not hold


def parse(arguments: Sequence[str], program: str = "torture.py") -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog=program, description="Prove that runs survive kills, damage and malice.")
    parser.add_argument("--short", action="store_true", help="20 kills and a sample of the rest, under two minutes")
    parser.add_argument("--kills", type=int, metavar="N", help="how many random kills (default: 1000, or 20 with --short)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything found to this .json file")
    parser.add_argument("--seed", type=int, default=0, help="of the moments, places and bits (default: 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time (default: one a core)")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), help="leave the other parts out")
    given = parser.parse_args(arguments)
    if given.kills is None:
        given.kills = 20 if given.short else 1000
    if min(given.kills, given.jobs) < 1:
        parser.error("--kills and --jobs must be 1 or more")
    if given.out is not None and not given.out.parent.is_dir():
        parser.error(f"--out: there is no folder {given.out.parent}")
    return given


def torture(arguments: Sequence[str], program: str = "torture.py") -> None:
    """Torture each recipe, print the table, and leave with 0 only if every claim held."""
    given = parse(arguments, program)
    with tempfile.TemporaryDirectory(prefix="nlpbp-torture-") as scratch:
        prepare(Path(scratch))
        claims = [claim for name in RECIPES for claim in prove(name, Path(scratch, name), given)]
    print(f"\n{closing_table(claims)}")
    if given.out is not None:
        record = {"settings": settings(given), "machine": machine(), "ok": all(claim["ok"] for claim in claims), "claims": claims}
        given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if not all(claim["ok"] for claim in claims):
        sys.exit(EXIT_BROKEN)


def prepare(scratch: Path) -> None:
    """Set what has to be set before torch, numpy and transformers are imported: one thread, no network, folders of our own."""
    one_thread = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    os.environ |= dict.fromkeys(one_thread, "1")
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    folders = {"HF_HOME": "hub", "NLPBP_CACHE": "cache", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
    os.environ |= {name: str(scratch / folder) for name, folder in folders.items()}
    import torch

    torch.set_num_threads(1)


def prove(name: str, scratch: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the chosen parts on one recipe and return the claims as plain data."""
    import importlib

    from torture_parts import damage, gallery, kills, operations, resumes, victims

    import recipes

    proofs = {"kills": kills, "operations": operations, "damage": damage, "resumes": resumes, "gallery": gallery}
    scratch.mkdir()
    subject = victims.Torture(
        name=name,
        recipe=importlib.import_module(recipes.RECIPES[name][0]),
        scratch=scratch,
        jobs=given.jobs,
        short=given.short,
        seed=given.seed,
        num_kills=given.kills,
    )
    victims.import_like(subject)
    claims = []
    for part in given.only:
        started = time.monotonic()
        print(f"{name}: {part}", flush=True)
        for claim in proofs[part].prove(subject):
            for failure in claim.failures[:10]:
                print(f"  FAILED {failure}", flush=True)
            print(f"  {'held' if claim.ok else 'FAILED'}: {claim.text}: {claim.held:,} of {claim.of:,}", flush=True)
            claims.append({"recipe": name, **asdict(claim), "ok": claim.ok})
        print(f"  {time.monotonic() - started:.0f} s", flush=True)
    return claims


def closing_table(claims: Sequence[dict[str, Any]]) -> str:
    """Lay out the claims, two lines each: what held how often, and below it the control and the seeds.

    >>> claim = {"recipe": "r", "part": "p", "text": "it holds", "held": 1, "of": 2, "ok": False, "control": "c", "seeds": "0"}
    >>> print(closing_table([claim]))
    FAILED          1 of 2  it holds
                            control: c; seeds: 0; r, p
    """
    rows = []
    for claim in claims:
        count = f"{claim['held']:,} of {claim['of']:,}"
        rows.append(f"{'held' if claim['ok'] else 'FAILED':<8}{count:>14}  {claim['text']}")
        rows.append(f"{'':<24}control: {claim['control']}; seeds: {claim['seeds']}; {claim['recipe']}, {claim['part']}")
    return "\n".join(rows)


def settings(given: argparse.Namespace) -> dict[str, Any]:
    """Return what was asked for."""
    return {"short": given.short, "kills": given.kills, "seed": given.seed, "jobs": given.jobs, "parts": given.only}


def machine() -> dict[str, Any]:
    """Return what it ran on."""
    import torch
    import transformers

    versions = {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}
    return {"system": platform.platform(), "cores": os.cpu_count(), **versions}


if __name__ == "__main__":
    run_command(torture, "torture.py")
