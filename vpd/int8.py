"""Linear layers with weights of 8 bits: a named trade of accuracy for memory and time.

Shapes: M rows (tokens of all pairs), K input and N output channels.

Each output channel's weights are rounded to 255 steps of its own; each row of the input likewise,
at every pass (symmetric, dynamic). The product is exact in 32-bit integers (`torch._int_mm`), which
CPUs with VNNI or AMX and GPUs since Turing run faster than float32. Convolutions stay as they are:
torch has no such product for them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpd.errors import ConfigError

STEPS = 127


def rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """float [M, K] -> int8 [M, K] and the size of a step, float [M, 1]."""
    step = values.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny) / STEPS
    return (values / step).round_().clamp_(-STEPS, STEPS).to(torch.int8), step


class Int8Linear(nn.Module):
    """A frozen linear layer whose weights are kept in 8 bits.

    They are buffers outside the state dict: a checkpoint holds weights, not their rounding.
    """

    weight: Tensor
    step: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight, step = rounded(linear.weight.detach().float())
        self.register_buffer("weight", weight, persistent=False)  # [N, K]
        self.register_buffer("step", step[:, 0], persistent=False)  # [N]
        bias = None if linear.bias is None else linear.bias.detach().float()
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """float [..., K] -> [..., N], in the dtype a plain layer would give.

        Raises ConfigError where a gradient is wanted: rounding has none.
        """
        if x.requires_grad and torch.is_grad_enabled():
            raise ConfigError("trade int8 passes no gradient on: test and predict with it only")
        kind = x.device.type
        auto = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if auto else x.dtype
        with torch.autocast(kind, enabled=False):
            rows, step = rounded(x.reshape(-1, self.in_features).float())
            y = self._product(rows).float().mul_(step).mul_(self.step)
            if self.bias is not None:
                y.add_(self.bias)
        return y.to(dtype).view(*x.shape[:-1], self.out_features)

    def _product(self, rows: Tensor) -> Tensor:
        """int8 [M, K] -> int32 [M, N]."""
        if not rows.is_cuda:
            return torch._int_mm(rows, self.weight.t())
        # cuBLASLt wants more than 16 rows, and channels in eights.
        short = max(0, 17 - len(rows))
        return torch._int_mm(F.pad(rows, (0, 0, 0, short)), self.weight.t())[: len(rows)]


def quantise(module: nn.Module) -> int:
    """Turn every linear layer of the transformers in `module` into an `Int8Linear`; how many.

    Layers whose channels do not divide by 8 stay. Raises ConfigError where one is to be trained.
    """
    count = 0
    for name, parent in list(module.named_modules()):
        for child, layer in list(parent.named_children()):
            if ".attentions." not in f".{name}." or type(layer) is not nn.Linear:
                continue
            if layer.weight.requires_grad:
                raise ConfigError(
                    f"{name}.{child} is to be trained, and 8-bit weights cannot be; use trade int8 "
                    "with unet_mode='frozen', for testing and predicting only"
                )
            if layer.in_features % 8 or layer.out_features % 8:
                continue
            setattr(parent, child, Int8Linear(layer))
            count += 1
    return count
