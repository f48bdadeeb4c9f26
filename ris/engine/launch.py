"""Process start-up: devices, the process group, and DDP that also works on CPUs."""

from __future__ import annotations

import os
import subprocess
import warnings
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from mmengine.device import utils as device_utils
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from torch.distributed.rendezvous import rendezvous

from ris import allocator
from ris.errors import OptionError
from ris.models import VPDRefer


def restarts() -> int:
    """How often torchrun has started this group of processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _ranks_from_slurm() -> None:
    """Under srun with several tasks, say in torchrun's variables what Slurm says in its own.

    By the step's count: the job's (SLURM_NTASKS) also stands in the batch script, of which there is
    one, and which would wait for others that nobody starts.
    """
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if "RANK" in os.environ or int(tasks) < 2:
        return
    if "SLURM_PROCID" not in os.environ:
        return
    if "MASTER_ADDR" not in os.environ:
        nodes = os.environ["SLURM_NODELIST"]
        listed = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
        )
        os.environ["MASTER_ADDR"] = listed.stdout.split()[0]
    os.environ.setdefault("MASTER_PORT", "29500")
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = tasks
    os.environ["LOCAL_RANK"] = os.environ["SLURM_LOCALID"]


def setup(device: str, timeout: float = 1800.0) -> str:
    """Choose the device, start the process group under torchrun, return Runner's `launcher`.

    device: `auto` (CUDA when there is one), `cpu` or `cuda`. timeout: seconds that a process waits
    for the others in an exchange before it gives up.

    Raises:
        OptionError: `cuda` was asked for and there is none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise OptionError(f"device {device!r} is unknown; choose auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError("device cuda was asked for, but torch sees no CUDA device; use 0 GPUs")
    if device == "cpu" or not torch.cuda.is_available():
        # mmengine decides on its device when it is imported, which was before this call.
        device_utils.DEVICE = "cpu"
        allocator.keep_heap()
    # pkg_resources' and torch's own deprecation notices drown the progress lines.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message=".*pkg_resources.*")
    _ranks_from_slurm()
    if "RANK" not in os.environ:
        return "none"
    if not dist.is_initialized():
        if torch.cuda.is_available() and device != "cpu":
            rank, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            if rank >= count:
                raise OptionError(
                    f"process {rank} of this machine has no GPU: torch sees {count}; start as many "
                    "processes as there are GPUs"
                )
            torch.cuda.set_device(rank)
            _meet("nccl", timeout)
        else:
            _meet("gloo", timeout)
    return "pytorch"


def _meet(backend: str, timeout: float) -> None:
    """Start the process group, each restart under its own keys.

    torchrun's static rendezvous keeps one store for all restarts, in which a restarted process
    may find the address of one that is dead, and wait for it (seen with torch 2.13, gloo).
    """
    limit = timedelta(seconds=timeout)
    store, rank, size = next(rendezvous("env://", timeout=limit))
    store = dist.PrefixStore(f"restart_{restarts()}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)


@MODEL_WRAPPERS.register_module()
class RefDDP(MMDistributedDataParallel):
    """mmengine's DDP, without `device_ids`: CPUs have none, and on GPUs it would move all of a
    batch, also what the host reads (`models.READ_BY_THE_HOST`). The model lies where it runs."""

    def __init__(self, module: VPDRefer, device_ids: Any = None, **kwargs: Any) -> None:
        super().__init__(
            module=module,
            device_ids=None,
            broadcast_buffers=False,
            # Another head may read some levels only; the UNet beyond them gets no gradient.
            find_unused_parameters=module.backbone.unet_mode != "frozen"
            and module.head_config["type"] != "VPDDecoder",
            **kwargs,
        )
