"""What docs/scale.md says of many processes: the configs are accelerate's, and sharding gives the weights of one process."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.numpy import load_file

from nlpbp.config.run import Batch
from nlpbp.runs.folder import CACHE
from nlpbp.text.tiny import tiny_bert
from recipes import transformer_sentiment
from run_script import TWO_PROCESSES

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
CONFIGS = sorted((ROOT / "docs" / "accelerate").glob("*.yaml"))
WORKER = ROOT / "tests" / "scale_worker.py"


def test_the_page_names_every_config_and_no_other() -> None:
    assert set(re.findall(r"docs/accelerate/(\w+\.yaml)", PAGE)) == {path.name for path in CONFIGS}


def test_every_flag_of_the_page_exists() -> None:
    def flags(config: Any, prefix: str = "--") -> set[str]:
        fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        inner = [flags(value, f"{prefix}{name}.") for name, value in fields.items() if dataclasses.is_dataclass(value)]
        return {f"{prefix}{name}" for name in fields}.union(*inner)

    commands = re.findall(r"finetune\.py((?:[^\n`#]|\\\n)*)", PAGE)
    used = {flag for command in commands for flag in re.findall(r"--[a-z_.]+", command)}
    assert used
    assert not used - flags(transformer_sentiment.Config())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_the_config_and_knows_its_keys(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    parser = launch_command_parser()
    known = {action.dest for action in parser._actions}
    assert not {*config.fsdp_config, *config.deepspeed_config} - known
    args, _, _ = _validate_launch_command(parser.parse_args(["--config_file", str(path), "scripts/finetune.py"]))
    environment = prepare_multi_gpu_env(args)
    assert args.num_processes == config.num_processes
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16"
    if path.stem == "fsdp2":
        assert environment["FSDP_VERSION"] == "2"
        assert environment["FSDP_RESHARD_AFTER_FORWARD"] == "true"
        assert environment["FSDP_TRANSFORMER_CLS_TO_WRAP"] == "BertLayer"
        assert environment["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "machines", "processes"), [("one_gpu", 1, 1), ("eight_gpus", 1, 2), ("multi_node", 2, 2)])
def test_accelerate_starts_the_recipe_by_the_config(tmp_path: Path, name: str, machines: int, processes: int) -> None:
    """On the CPU, with as many processes as there are cores here; each "machine" is a launcher of its own, told its rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "docs" / "accelerate" / f"{name}.yaml")]
    launch += ["--num_machines", str(machines), "--num_processes", str(processes), "--main_process_port", "0"]
    launch += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port)] if machines > 1 else []
    recipe = [str(ROOT / "scripts" / "finetune.py"), "--tiny", "--epochs", "1", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = [
        subprocess.Popen([sys.executable, *launch, "--machine_rank", str(rank), *recipe], env=environment, stdout=subprocess.PIPE)
        for rank in range(machines)
    ]
    printed = [process.communicate(timeout=150)[0].decode() for process in started]
    assert [process.returncode for process in started] == [0] * machines
    assert f"on cpu, {processes} process" in printed[0]
    assert printed[1:] == [""] * (machines - 1)  # the first machine's first process speaks for all
    assert (tmp_path / "run" / "result.json").exists()


def work(out: Path, kind: str, *launcher: str) -> Path:
    """Run tests/scale_worker.py and return the folder it wrote."""
    out.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, *launcher, str(WORKER), str(out), kind]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return work(tmp_path_factory.mktemp("scale") / "alone", "plain")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny_bert(CACHE / "tiny-bert")
    return work(tmp_path_factory.mktemp("scale") / "sharded", "fsdp2", *TWO_PROCESSES)


def facts(out: Path) -> dict[str, Any]:
    return json.loads((out / "facts.json").read_text())


def distance(one: Path, other: Path) -> float:
    a, b = load_file(one), load_file(other)
    assert a.keys() == b.keys()
    return max(float(abs(a[name] - b[name]).max()) for name in a)


def test_the_worker_shards_and_clips(alone: Path, sharded: Path) -> None:
    assert facts(sharded)["kind"] == "DistributedType.FSDP"
    assert facts(sharded)["num_processes"] == 2
    assert facts(sharded)["sharded"] == facts(sharded)["parameters"] > 0
    assert facts(alone)["sharded"] == 0
    assert any(facts(alone)["clipped"])


def test_sharded_training_gives_the_weights_of_one_process_with_two_micro_batches(alone: Path, sharded: Path) -> None:
    assert distance(alone / "whole.safetensors", sharded / "whole.safetensors") < 1e-6  # the norm is summed in another order
    assert distance(alone / "moments.safetensors", sharded / "moments.safetensors") < 1e-6
    for name in ("losses", "norms"):
        assert facts(sharded)[name] == pytest.approx(facts(alone)[name], rel=1e-6)
    assert facts(sharded)["clipped"] == facts(alone)["clipped"]
    assert facts(sharded)["names"] == facts(alone)["names"]


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_the_loop_under_deepspeed_gives_the_weights_of_one_process(alone: Path, tmp_path: Path, zero_stage: int) -> None:
    shared = work(tmp_path / "zero", f"zero{zero_stage}", *TWO_PROCESSES)
    assert facts(shared)["kind"] == "DistributedType.DEEPSPEED"
    assert (facts(shared)["num_processes"], facts(shared)["zero_stage"]) == (2, zero_stage)
    assert distance(alone / "whole.safetensors", shared / "whole.safetensors") < 1e-6
    for name in ("losses", "norms"):
        assert facts(shared)[name] == pytest.approx(facts(alone)[name], rel=1e-5)
    assert facts(shared)["clipped"] == facts(alone)["clipped"]


@pytest.mark.parametrize("kind", ["alone", "sharded"])
def test_saved_and_loaded_half_way_it_ends_the_same(kind: str, request: pytest.FixtureRequest) -> None:
    out = request.getfixturevalue(kind)
    assert distance(out / "whole.safetensors", out / "resumed.safetensors") == 0.0
    assert distance(out / "whole.safetensors", out / "left-out.safetensors") > 1e-5


def test_a_sharded_recipe_stopped_and_gone_on_with_gives_the_model_of_one_process(sharded: Path, tmp_path: Path) -> None:
    optim = dataclasses.replace(transformer_sentiment.tiny().optim, swa_start=0.4)
    changes = {"optim": optim, "batch": Batch(size=16, micro_batches=2), "threads": 1, "precision": "fp32", "epochs": 1}
    transformer_sentiment.run(dataclasses.replace(transformer_sentiment.tiny(), **changes, out=str(tmp_path / "one")))
    assert distance(tmp_path / "one" / "model" / "model.safetensors", sharded / "recipe" / "model" / "model.safetensors") < 1e-6
    one, other = (json.loads((out / "result.json").read_text())["metrics"] for out in (tmp_path / "one", sharded / "recipe"))
    assert one.keys() == other.keys()
    for part, metrics in one.items():
        assert other[part] == pytest.approx(metrics, rel=1e-5)
