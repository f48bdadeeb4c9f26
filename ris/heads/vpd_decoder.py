"""The published decoder of VPD's referring segmentation: three fusions, coarse to fine.

Shapes: B pairs, C_l channels of level l (finest first), h w cells of the finest level.
Source: wl-zhao/VPD `refer/`, after LAVT's SimpleDecoding. Parameter names are the released ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VPDDecoder(nn.Module):
    """Pyramid -> two-channel logits at the finest level's size.

    Each fusion resizes the coarser map (bilinear, corners aligned), puts it before the finer one
    and applies two 3x3 convolutions with batch norm and ReLU.

    Args:
        in_channels: channels of the four levels, finest first.
        channels: hidden width; the published decoder takes half of the coarsest level's.
        num_classes: output channels; 2 = background, referred.
        subpixel: logits a cell along each side. 1 is the published head; 4 lets the last
            convolution tell 4 x 4 parts of a cell apart, which small pictures gain by (Shi et al.
            2016, sub-pixel convolution).
        input_norm: batch norm over every channel of the pyramid first. A map's values are some
            hundred times smaller than a feature's, so that a head without it (the published one)
            learns late to look at the maps. Tiny heads trained for minutes need it.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int | None = None,
        num_classes: int = 2,
        subpixel: int = 1,
        input_norm: bool = False,
    ) -> None:
        super().__init__()
        self.subpixel = subpixel
        self.norms: nn.ModuleList | None = None
        if input_norm:
            self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in in_channels)
        c1, c2, c3, c4 = in_channels
        hidden = c4 // 2 if channels is None else channels
        # Numbered as in the released files: 4 is the coarsest fusion, 2 the finest.
        for number, width in ((4, c4 + c3), (3, hidden + c2), (2, hidden + c1)):
            setattr(self, f"conv1_{number}", nn.Conv2d(width, hidden, 3, padding=1, bias=False))
            setattr(self, f"bn1_{number}", nn.BatchNorm2d(hidden))
            setattr(self, f"conv2_{number}", nn.Conv2d(hidden, hidden, 3, padding=1, bias=False))
            setattr(self, f"bn2_{number}", nn.BatchNorm2d(hidden))
        self.conv1_1 = nn.Conv2d(hidden, num_classes * subpixel**2, 1)

    def forward(
        self, pyramid: Sequence[Tensor], between: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Four maps [B, C_l, h / 2^l, w / 2^l], finest first -> logits [B, num_classes,
        h * subpixel, w * subpixel].

        between: what happens to the fused map [B, channels, h / 2, w / 2] before the last fusion;
        nothing in the published decoder.
        """
        if self.norms is not None:
            pyramid = [norm(level) for norm, level in zip(self.norms, pyramid, strict=True)]
        *finer, fused = pyramid
        for number, level in zip((4, 3, 2), reversed(finer), strict=True):
            if fused.shape[-2:] != level.shape[-2:]:
                fused = F.interpolate(
                    fused, size=level.shape[-2:], mode="bilinear", align_corners=True
                )
            fused = torch.cat([fused, level], dim=1)
            for half in (1, 2):
                conv = getattr(self, f"conv{half}_{number}")
                norm = getattr(self, f"bn{half}_{number}")
                fused = F.relu(norm(conv(fused)))
            if number == 3 and between is not None:
                fused = between(fused)
        return F.pixel_shuffle(self.conv1_1(fused), self.subpixel)
