"""accelerate's own FSDP2 and DeepSpeed paths on a CPU: it takes them on accelerators only, although both work over gloo as well.

For tests alone: the first writes into a private dictionary of accelerate's, so it holds for the version that it names.
"""

from __future__ import annotations

import os
from typing import Any

import accelerate
from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import DeepSpeedPlugin, DistributedType

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


def deepspeed_on_cpu(*, zero_stage: int, max_grad_norm: float) -> Accelerator:
    """Make an Accelerator whose models DeepSpeed trains over the gloo processes of torchrun."""
    os.environ.pop("ACCELERATE_USE_CPU", None)
    os.environ |= {"DS_ACCELERATOR": "cpu", "ACCELERATE_USE_DEEPSPEED": "true"}
    PartialState(cpu=True)
    settings = {
        "train_micro_batch_size_per_gpu": 1,  # the loop's own batches have no fixed size, and need none
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm,
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": zero_stage, "stage3_gather_16bit_weights_on_model_save": True},
    }
    return Accelerator(deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=settings))
