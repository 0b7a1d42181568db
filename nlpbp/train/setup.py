"""How a run starts: processes that see each other, all cores at work, and the number format that the hardware runs fast."""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import os
import platform
import sys
import time
from datetime import timedelta

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, InitProcessGroupKwargs, LoggerType, set_seed
from torch import distributed

from nlpbp.config.run import Precision
from nlpbp.core.errors import ConfigError, DistributedError
from nlpbp.data.decoding import nearest

MIN_SPEEDUP = 1.2  # of bf16's matrix products: what it costs to round to it and back


def start(*, seed: int, precision: Precision = "auto", threads: int | None = None, track: str | None = None) -> Accelerator:
    """Set up accelerate, threads, precision and seeds; the same call in every process.

    Raises `DistributedError` when processes were started that do not see each other, `ConfigError` for an unknown tracker.

    >>> start(seed=0, precision="fp32", threads=1).num_processes
    1
    """
    chosen = _precision(precision)
    if chosen == "fp16" and not torch.accelerator.is_available():
        raise ConfigError("fp16 needs a GPU, and this machine computes on its cpu", column="precision", hint="bf16 or fp32")
    if track is not None:
        _check_tracker(track)
    accelerator = _accelerate("fp32" if chosen == "auto" else chosen, track=track)
    _check_launch(accelerator)
    if accelerator.num_processes > 1:
        atexit.unregister(_part_from_the_others)
        atexit.register(_part_from_the_others)
    if accelerator.device.type == "cpu":
        torch.set_num_threads(threads or _cores() // _local_processes())
        _keep_freed_memory()
    if chosen == "auto" and _bf16_is_faster_everywhere(accelerator):
        accelerator = _accelerate("bf16", track=track)
    set_seed(seed)
    return accelerator


def _part_from_the_others() -> None:
    """Close gloo's connections before Python takes itself down: its threads would then abort the process now and then.

    NCCL has no such threads, and waits here for a process that failed.
    """
    if distributed.is_available() and distributed.is_initialized() and distributed.get_backend() == distributed.Backend.GLOO:
        distributed.destroy_process_group()
    gc.collect()  # a cycle of references that holds the group keeps its threads alive


def _accelerate(precision: str, *, track: str | None) -> Accelerator:
    AcceleratorState._reset_state()  # a second one in a Python process may want another precision
    try:
        return Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision={"fp32": "no"}.get(precision, precision),
            log_with=track,
            kwargs_handlers=_timeout(),
            project_dir=None if track is None else ".",  # until the run folder is known
        )
    except ImportError as error:
        raise DistributedError(f"what was asked for needs a package that is not installed: {error}", hint="install it") from error


def describe(accelerator: Accelerator) -> str:
    """Say in one line what the run computes on.

    >>> describe(start(seed=0, precision="fp32", threads=1))
    'cpu, 1 process, 1 thread each, fp32'
    """
    processes = accelerator.num_processes
    parts = [str(accelerator.device.type), f"{processes} process{'es' if processes > 1 else ''}"]
    if accelerator.device.type == "cpu":
        threads = torch.get_num_threads()
        parts.append(f"{threads} thread{'s' if threads > 1 else ''} each")
    return ", ".join([*parts, precision_of(accelerator)])


def precision_of(accelerator: Accelerator) -> str:
    """Name the number format of the forward pass: fp32, bf16 or fp16."""
    return "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision


def _check_tracker(name: str) -> None:
    """Raise `ConfigError` for a tracker that accelerate does not know, naming the nearest, or that is not installed."""
    known = [tracker.value for tracker in LoggerType]
    if name not in known:
        raise ConfigError(f"there is no tracker {name!r}", column="track", hint=nearest(name, known, kind="tracker"))
    installed = [tracker.value for tracker in get_available_trackers()]
    if not (installed if name == LoggerType.ALL.value else name in installed):
        raise ConfigError(
            f"the tracker {name!r} is not installed", column="track", hint="install its package, or leave --track out"
        )


def _precision(wanted: Precision) -> str:
    """Resolve "auto": what accelerate was configured with, unless that is its default "no"; on a CPU it is left to measure."""
    if wanted != "auto":
        return wanted
    configured = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if configured != "no":
        return configured
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "fp32" if torch.accelerator.is_available() else "auto"


def _bf16_is_faster_everywhere(accelerator: Accelerator) -> bool:
    votes = accelerator.reduce(torch.tensor(int(bf16_speedup() >= MIN_SPEEDUP)))  # their sum over processes
    return int(votes) == accelerator.num_processes


@functools.cache
def bf16_speedup() -> float:
    """Measure how many times faster this processor multiplies matrices in bf16 than in fp32, in a tenth of a second.

    Instructions for bf16 do not tell: among processors that have avx512_bf16 some were found twice as fast in it as in fp32 and
    others, whose AMX a virtual machine hides, only half as fast. Without any the format is emulated, and the answer is 0.
    """
    capabilities = torch.cpu.get_capabilities()
    if not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        return 0.0
    wide, square = torch.ones(1024, 512), torch.ones(512, 512)
    low = (wide.bfloat16(), square.bfloat16())
    times = [(_seconds(wide, square), _seconds(*low)) for _ in range(8)]  # in turns, as others may use the machine
    return min(full for full, _ in times) / min(short for _, short in times)


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    started = time.perf_counter()
    left @ right
    return time.perf_counter() - started


def _cores() -> int:
    """Count the physical cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))


def _local_processes() -> int:
    return min(_cores(), int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1"))))


def _keep_freed_memory() -> None:
    """Let the C library keep large blocks that torch frees, where it is glibc; elsewhere do nothing.

    By default each one goes back to the system and is filled with zeros again when it returns: for the gradient of a 30,000-word
    embedding (47 MB, every step) that alone was a tenth of a small model's step.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of mallopt(3)
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


def _timeout() -> list[InitProcessGroupKwargs]:
    """Wait NLPBP_TIMEOUT seconds for another process, if it is set; torch's own limit is 30 minutes."""
    seconds = os.environ.get("NLPBP_TIMEOUT")
    return [InitProcessGroupKwargs(timeout=timedelta(seconds=float(seconds)))] if seconds else []


def _check_launch(accelerator: Accelerator) -> None:
    """Refuse to train when a launcher started several processes and this one stands alone."""
    alone = accelerator.num_processes == 1
    started = int(os.environ.get("WORLD_SIZE", "1"))
    hint = "start them with ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N, or with torchrun"
    if alone and started > 1:
        raise DistributedError(f"{started} processes were started but they do not see each other", hint=hint)
    if alone and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ:
        raise DistributedError("several processes were asked for, but `accelerate launch --cpu` starts only one", hint=hint)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        hint = "use FSDP2, which shares out the same: docs/accelerate/fsdp2.yaml"
        raise DistributedError("DeepSpeed's optimizer cannot be saved and gone on with yet", hint=hint)
    for name, kind in (("FSDP", DistributedType.FSDP), ("DEEPSPEED", DistributedType.DEEPSPEED)):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true" and accelerator.distributed_type != kind:
            raise DistributedError(
                f"{name} was asked for, and accelerate does not run it on this machine", hint="use plain data parallelism"
            )
