"""accelerate's own FSDP2 path on a CPU: it takes that path on accelerators only, although torch shards over gloo just as well.

For tests alone: it writes into a private dictionary of accelerate's, so it holds for the version that it names.
"""

from __future__ import annotations

from typing import Any

import accelerate
from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import DistributedType

WRITTEN_FOR = "1.15."


def fsdp2_on_cpu(**options: Any) -> Accelerator:
    """Make an Accelerator that shards over the gloo processes of torchrun."""
    if not accelerate.__version__.startswith(WRITTEN_FOR):
        raise RuntimeError(f"the FSDP2 shim is for accelerate {WRITTEN_FOR}*, and this is {accelerate.__version__}")
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU  # from there AcceleratorState goes on to FSDP
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["BertLayer"],
        cpu_ram_efficient_loading=False,
    )
    return Accelerator(**{**options, "cpu": None, "fsdp_plugin": plugin})
