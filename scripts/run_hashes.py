"""Hash what every recipe's tiny run leaves, so that two commits can be compared: a refactoring must change none of it.

python scripts/run_hashes.py --json before.json
python scripts/run_hashes.py --compare before.json
PYTHONPATH=../older-checkout python scripts/run_hashes.py --json before.json      # of another checkout's code

Hashed are the final weights, metrics.jsonl, and the predictions (a language model has none), with seed 0, one thread and fp32.
Exit code: 0 when all hashes are those of --compare, 1 when one differs.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("NLPBP_REPORT", "off")  # takes a second a run, and is not hashed
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def main() -> None:
    """Run, hash, print, compare."""
    parser = argparse.ArgumentParser(prog="run_hashes.py", description="Hash what every recipe's tiny run leaves.")
    parser.add_argument("--json", type=Path, help="a file to write the hashes to")
    parser.add_argument("--compare", type=Path, help="a file of hashes to compare with")
    given = parser.parse_args()
    found = hashes()
    print(json.dumps(found, indent=2))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if given.compare:
        before = json.loads(given.compare.read_text(encoding="utf-8"))
        differing = sorted(name for name in {**before, **found} if before.get(name) != found.get(name))
        print(f"differing: {', '.join(differing) or 'none'} of {len(found)} hashes")
        sys.exit(1 if differing else 0)


def hashes() -> dict[str, str]:
    """Return a hash for each file of each recipe's tiny run, by `recipe/file`."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NLPBP_CACHE"] = str(Path(folder, "cache"))  # tokenizers and tokens are made anew
        from recipes import RECIPES

        for name, (module, _) in RECIPES.items():
            recipe = importlib.import_module(module)
            out = Path(folder, name)
            recipe.run(dataclasses.replace(recipe.tiny(), out=str(out), seed=0, threads=1, precision="fp32"))
            for file in sorted(out.rglob("*.safetensors")):
                found[f"{name}/{file.relative_to(out)}"] = hashlib.sha256(file.read_bytes()).hexdigest()
            found[f"{name}/metrics.jsonl"] = hashlib.sha256((out / "metrics.jsonl").read_bytes()).hexdigest()
            if (out / "predictions.parquet").exists():
                found[f"{name}/predictions.parquet"] = _hash_of_table(out / "predictions.parquet")
    return found


def _hash_of_table(file: Path) -> str:
    """Hash the values of a Parquet file: its bytes also hold the version of the library that wrote it."""
    import pyarrow.parquet as pq

    table = pq.read_table(file).to_pydict()
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    main()
