"""3x3 convolutions with fewer multiplications, for float32 inference on a CPU.

Shapes: B items, C input and O output channels, H W cells.

On a CPU a Stable Diffusion pass is bound by arithmetic, so that fewer multiplications are the only
way on. Two exact rewrites, equal to the direct convolution within float32 rounding:
- tiles of 4 x 4 outputs with 36 products in place of 144 (`vpd.winograd`);
- "double every cell, then convolve" as four 2 x 2 convolutions, one for each place within a cell:
  16 products in place of 36 (Shi et al. 2016).
Both keep the weights in a second form, of four times and 16/9 of their size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from vpd import winograd

MIN_CHANNELS = 128  # fewer leave too little arithmetic in a tile to pay for cutting it out


class _Derived:
    """A tensor made from a weight, made anew when the weight has changed.

    A write through `.data`, or in inference mode to a weight made there, counts as no change.
    """

    def __init__(self) -> None:
        self.key: tuple[int, int] | None = None
        self.value: Any = None
        self.source: Tensor | None = None  # holds its memory, so that no address comes twice

    def __reduce__(self) -> tuple[type[_Derived], tuple[()]]:
        return _Derived, ()  # a copy or a pickle makes its own when it needs it

    def of(self, weight: Tensor, make: Any) -> Any:
        # Tensors made in inference mode count no changes; nor are they trained.
        key = (weight.data_ptr(), -1 if weight.is_inference() else weight._version)
        if self.key != key:
            with torch.no_grad():
                self.source = weight.detach()
                self.value = make(self.source)
            self.key = key
        return self.value


class WinogradConv2d(nn.Conv2d):
    """`nn.Conv2d` that takes the short way where it may; parameters and state dict are the same."""

    derived: _Derived

    def prepare(self) -> Tensor:
        """The transformed weights float32 [36, C, O]."""
        found: Tensor = self.derived.of(self.weight, winograd.transform_weights)
        return found

    def forward(self, input: Tensor) -> Tensor:
        whole = input.dim() == 4 and not any(side % winograd.TILE for side in input.shape[2:])
        if whole and _usable(input, self.weight):
            return winograd.convolve(input, self.prepare(), self.bias)
        return super().forward(input)


class SubpixelUpsample2D(Upsample2D):
    """diffusers' nearest upsampling with convolution, without forming the upsampled map."""

    derived: _Derived

    def prepare(self) -> tuple[Tensor, ...]:
        """Four kernels [O, C, 2, 2]: of the upper left, upper right, lower left, lower right."""
        found: tuple[Tensor, ...] = self.derived.of(self.conv.weight, phase_weights)
        return found

    def forward(
        self, hidden_states: Tensor, output_size: int | None = None, *args: Any, **options: Any
    ) -> Tensor:
        if output_size is None and _usable(hidden_states, self.conv.weight):
            return upsample_conv(hidden_states, self.prepare(), self.conv.bias)
        found: Tensor = super().forward(hidden_states, output_size, *args, **options)
        return found


def install(*modules: nn.Module) -> int:
    """Give every fitting convolution and upsampler below `modules` its short way, in place.

    Fitting: 3x3, stride 1, padded by 1, `MIN_CHANNELS` on both sides. It is taken in float32 on a
    CPU without gradient, autocast and torch.compile, by a convolution where both sides divide by 4;
    anything else runs as before. Returns how many there are.
    """
    changed = 0
    inside: set[nn.Module] = set()
    for module in modules:
        for part in module.modules():
            # Classes are compared exactly: a subclass may compute something else.
            if type(part) is Upsample2D and _plain_upsampler(part):
                inside.add(part.get_submodule("conv"))
                part.__class__ = SubpixelUpsample2D
            elif type(part) is nn.Conv2d and part not in inside and _fits(part):
                part.__class__ = WinogradConv2d
            else:
                continue
            object.__setattr__(part, "derived", _Derived())
            changed += 1
    return changed


def prepare(*modules: nn.Module) -> None:
    """Make the second form of the weights now and not in the first pass."""
    for part in installed(*modules):
        part.prepare()


def installed(*modules: nn.Module) -> Iterator[WinogradConv2d | SubpixelUpsample2D]:
    """The parts that `install` changed."""
    for module in modules:
        for part in module.modules():
            if isinstance(part, WinogradConv2d | SubpixelUpsample2D):
                yield part


def phase_weights(weight: Tensor) -> tuple[Tensor, ...]:
    """[O, C, 3, 3] -> four kernels [O, C, 2, 2]: weights that meet the same doubled cell added."""
    rows = (
        torch.stack([weight[:, :, 0], weight[:, :, 1] + weight[:, :, 2]], dim=2),
        torch.stack([weight[:, :, 0] + weight[:, :, 1], weight[:, :, 2]], dim=2),
    )
    return tuple(
        phase.contiguous()
        for row in rows
        for phase in (
            torch.stack([row[..., 0], row[..., 1] + row[..., 2]], dim=3),
            torch.stack([row[..., 0] + row[..., 1], row[..., 2]], dim=3),
        )
    )


def upsample_conv(x: Tensor, phases: tuple[Tensor, ...], bias: Tensor | None) -> Tensor:
    """x [B, C, H, W] -> [B, O, 2 H, 2 W], channels innermost in memory."""
    batch, _, height, width = x.shape
    padded = F.pad(x, (1, 1, 1, 1))
    found = x.new_empty(batch, height, 2, width, 2, phases[0].shape[0])
    for number, weight in enumerate(phases):
        row, column = divmod(number, 2)
        part = padded[:, :, row : row + height + 1, column : column + width + 1]
        found[:, :, row, :, column] = F.conv2d(part, weight, bias).permute(0, 2, 3, 1)
    return found.view(batch, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)


def _usable(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and x.numel() > 0
        # Traced, its loops would be unrolled for every batch size.
        and not torch.compiler.is_compiling()
    )


def _fits(conv: nn.Conv2d) -> bool:
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS
    )


def _plain_upsampler(part: Upsample2D) -> bool:
    conv = getattr(part, "conv", None)
    return (
        part.use_conv
        and part.norm is None
        and not part.use_conv_transpose
        and part.name == "conv"
        and part.interpolate
        and type(conv) is nn.Conv2d
        and _fits(conv)
    )
