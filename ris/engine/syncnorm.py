"""Batch norm over all processes on CPUs, where torch's SyncBatchNorm refuses to run.

Shapes: B items of this process, C channels, H W cells.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class CPUSyncBatchNorm2d(nn.BatchNorm2d):
    """`BatchNorm2d` whose training statistics are of the batches of all processes together."""

    def forward(self, features: Tensor) -> Tensor:
        """float [B, C, H, W] -> float [B, C, H, W]."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(features)
        axes = (0, 2, 3)
        own = torch.full((1,), float(features.numel() // features.shape[1]))
        count = all_reduce(own)
        mean = all_reduce(features.sum(axes)) / count
        centred = features - mean[None, :, None, None]
        variance = all_reduce(centred.square().sum(axes)) / count
        with torch.no_grad():
            if self.running_mean is not None and self.running_var is not None:
                share = self.momentum or 0.0
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * count / (count - 1), share)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        found = centred * scale[None, :, None, None]
        return found + self.bias[None, :, None, None] if self.affine else found


def convert(module: nn.Module) -> None:
    """Turn every `BatchNorm2d` inside `module` into the synchronised kind, in place.

    The layers keep their parameters, buffers and names.
    """
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = CPUSyncBatchNorm2d
