"""FSDP2: weights, gradients and moments of a fine-tuned UNet, shared out over the processes.

A state dict then holds DTensors; `whole` gathers one, `like` cuts one to this process's share.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from mmengine.registry import MODEL_WRAPPERS
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ris.models import VPDRefer

GATHERED = (ResnetBlock2D, Transformer2DModel)


@MODEL_WRAPPERS.register_module()
class RefFSDP(nn.Module):
    """A `VPDRefer` whose parameters are sharded in place: each residual and transformer block of
    the UNet is gathered when it runs, the rest for the length of a step. To the rest belongs the
    first transformer block: where several sentences share a picture its parts are called one by
    one (`UNetFeatures._transformer`), behind the back of what would gather it.

    Build it before the optimizer, which must hold the sharded parameters.
    """

    def __init__(self, module: VPDRefer) -> None:
        super().__init__()
        unet = module.backbone.unet
        first = next(part for part in unet.modules() if isinstance(part, Transformer2DModel))
        for part in unet.modules():
            trained = any(parameter.requires_grad for parameter in part.parameters())
            if isinstance(part, GATHERED) and part is not first and trained:
                fully_shard(part)
        fully_shard(module)
        self.module = module

    def train(self, mode: bool = True) -> RefFSDP:
        """Between evaluations the weights are shared out; for one, each process gathers them all
        and keeps them: processes run unlike numbers of batches then, and cannot wait for one
        another."""
        super().train(mode)
        for part in self.modules():
            if isinstance(part, FSDPModule):
                part.set_reshard_after_forward(mode, recurse=False)
                if mode:
                    part.reshard()
                else:
                    part.unshard()
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """One step, as mmengine's wrapper of DDP does it."""
        with optim_wrapper.optim_context(self):
            data = self.module.data_preprocessor(data, training=True)
            losses = self.module(**data, mode="loss")
        loss, logged = self.module.parse_losses(losses)
        optim_wrapper.update_params(loss)
        return logged

    def val_step(self, data: Any) -> Any:
        with torch.no_grad():
            return self.module(**self.module.data_preprocessor(data), mode="predict")

    test_step = val_step


def reshard(model: nn.Module) -> None:
    """Back to shares, whatever of the model is gathered; nothing where nothing is sharded."""
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def whole(value: Tensor) -> Tensor:
    """The full tensor of a sharded one (every process must ask); others as they are."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, own: Tensor) -> Tensor:
    """A full tensor sharded as `own` is; as it is where `own` is not sharded."""
    if isinstance(own, DTensor) and not isinstance(value, DTensor):
        return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
    return value
