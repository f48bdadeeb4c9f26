"""One pass through a Stable Diffusion UNet that stops at the features.

Shapes: P pictures, B (picture, sentence) pairs, T tokens, C channels, h w latent cells,
L = 4 levels. Level 0 has the latent's own size (stride 8 of the picture), level 3 an eighth.

Source: wl-zhao/VPD `vpd/models.py` on CompVis UNet. In CompVis numbering the features leave after
output blocks 1, 4, 7 (before the upsampling that follows) and after the last; the final norm and
convolution never run. In diffusers' numbering: `up_blocks[i]` after layer `layers_per_block - 1`
for the three coarser ones, the end of `up_blocks[3]` for the finest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vpd import attention, light
from vpd.errors import ConfigError
from vpd.merging import Grid, MergingProcessor
from vpd.timestep import ConstantTime

STRIDES = (8, 16, 32, 64)
CHECKPOINTING = (False, "light", True)
MAP_LEVELS = (1, 2)  # levels whose cross-attention maps join the pyramid: strides 16 and 32


@dataclass
class FeaturePyramid:
    """Multi-scale features of (picture, expression) pairs, finest level first.

    features: four tensors [B, C_l, h / 2^l, w / 2^l], strides 8, 16, 32, 64 of the picture.
    maps: level -> cross-attention map [B, T, h / 2^l, w / 2^l], softmax over T averaged over heads
        and layers, range [0, 1]; empty when the backbone was built without maps.
    """

    features: tuple[Tensor, ...]
    maps: dict[int, Tensor]

    def joined(self) -> tuple[Tensor, ...]:
        """Features with their level's maps behind them in the channel axis, as published."""
        return tuple(
            torch.cat([feature, self.maps[level].to(feature.dtype)], dim=1)
            if level in self.maps
            else feature
            for level, feature in enumerate(self.features)
        )


class UNetFeatures:
    """Reads a `UNet2DConditionModel` as a feature extractor at one fixed timestep.

    No module of its own: the UNet stays registered with its owner, once.

    Args:
        unet: the diffusers UNet; four levels, as in every Stable Diffusion 1.x and 2.x. Distilled
            ones with fewer layers a level, or without a middle, are read in the same way.
        timestep: the constant timestep (published code: 1).
        maps: also form the cross-attention maps of levels 1 and 2.
        map_gradient: let the loss reach the UNet through the maps (published code: it does not).
        kernel: `sdpa`, `xformers` or `eager`, for every layer that forms no map.
        checkpointing: True recomputes blocks in the backward pass instead of keeping activations;
            `light` only what is cheap to recompute (`vpd.light`).
        compiled: let torch.compile make one kernel graph of each kind of block. Blocks of one shape
            share it, so that a whole UNet is ready in the time of a few; the first passes wait.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        *,
        timestep: int = 1,
        maps: bool = True,
        map_gradient: bool = False,
        kernel: str = "sdpa",
        checkpointing: bool | str = False,
        compiled: bool = False,
    ) -> None:
        if len(unet.up_blocks) != len(STRIDES):
            raise ConfigError(f"the UNet has {len(unet.up_blocks)} levels; {len(STRIDES)} needed")
        steps = getattr(unet.config, "num_train_timesteps", 1000) or 1000
        if not 0 <= timestep < steps:
            raise ConfigError(f"timestep {timestep} is outside 0 to {steps - 1}")
        if checkpointing not in CHECKPOINTING:
            allowed = ", ".join(map(str, CHECKPOINTING))
            raise ConfigError(f"checkpointing is {checkpointing!r}; choose one of {allowed}")
        checkpointing = checkpointing if checkpointing == "light" else bool(checkpointing)
        if checkpointing is True and map_gradient:
            raise ConfigError("checkpointing recomputes the maps, so map_gradient cannot be kept")
        if checkpointing == "light" and compiled:
            raise ConfigError(
                "checkpointing='light' and compiled=True exclude each other: compiled blocks "
                "choose by themselves what they keep"
            )
        self.unet = unet
        self.timestep = timestep
        self.time = ConstantTime(unet, timestep)
        self._grid = Grid()
        self.checkpointing = checkpointing
        attention.install(unet, kernel)
        self.map_layers: dict[int, list[attention.MapProcessor]] = {}
        if maps:
            for level in MAP_LEVELS:
                layers = list(cross_attention_layers(unet, level))
                if not layers:
                    raise ConfigError(f"level {level} of the UNet has no cross-attention to read")
                self.map_layers[level] = attention.install_maps(layers, map_gradient)
        if compiled:
            for module in unet.modules():
                if isinstance(module, ResnetBlock2D | BasicTransformerBlock):
                    module.compile()

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the four features, finest first, without maps."""
        first, *rest = self.unet.config.block_out_channels
        return (first, *rest)

    def __call__(
        self, latent: Tensor, context: Tensor, picture_index: Tensor | None = None
    ) -> FeaturePyramid:
        """latent [P, c, h, w], context [B, T, D], picture_index int64 [B] into P -> pyramid.

        Without `picture_index` P must equal B. What no sentence changes runs once per picture:
        everything before the first cross-attention, the self-attention before it included.
        """
        h, w = latent.shape[-2:]
        if h % 8 or w % 8:
            raise ConfigError(
                f"the picture's sides must divide by 64; got {8 * h} x {8 * w} (height x width)"
            )
        unet = self.unet
        if picture_index is not None:
            picture_index = picture_index.to(latent.device, non_blocking=True)
        self._grid.cells = (h, w)
        emb = self.time(latent)

        def pairs(x: Tensor) -> Tensor:
            return x if picture_index is None else x.index_select(0, picture_index)

        met_text = False
        hidden = unet.conv_in(latent)
        skips = [(hidden, met_text)]
        for block in unet.down_blocks:
            for layer, resnet in enumerate(block.resnets):
                hidden = self._resnet(resnet, hidden, emb)
                transformer = attention_of(block, layer)
                if transformer is not None and not met_text and picture_index is not None:
                    hidden = self._transformer(transformer, hidden, context, pairs)
                elif transformer is not None:
                    hidden = self._attend(transformer, hidden, context)
                met_text = met_text or transformer is not None
                skips.append((hidden, met_text))
            for downsampler in block.downsamplers or ():
                hidden = downsampler(hidden)
                skips.append((hidden, met_text))

        if not met_text:
            hidden = pairs(hidden)
        if unet.mid_block is not None:
            hidden = self._middle(unet.mid_block, hidden, context, emb)

        features: list[Tensor] = []
        for position, block in enumerate(unet.up_blocks):
            last = position == len(unet.up_blocks) - 1
            leave_after = len(block.resnets) - 1 if last else len(block.resnets) - 2
            for layer, resnet in enumerate(block.resnets):
                skip, of_pairs = skips.pop()
                skip = skip if of_pairs else pairs(skip)
                hidden = self._resnet(resnet, torch.cat([hidden, skip], dim=1), emb)
                transformer = attention_of(block, layer)
                if transformer is not None:
                    hidden = self._attend(transformer, hidden, context)
                if layer == leave_after:
                    features.append(hidden)
            for upsampler in block.upsamplers or ():
                hidden = upsampler(hidden)

        maps = {
            level: torch.stack([processor.take() for processor in processors])
            .mean(dim=0)
            .transpose(1, 2)
            .unflatten(2, (h // 2**level, w // 2**level))
            for level, processors in self.map_layers.items()
        }
        return FeaturePyramid(tuple(reversed(features)), maps)

    def _middle(self, middle: Any, hidden: Tensor, context: Tensor, emb: Tensor) -> Tensor:
        hidden = self._resnet(middle.resnets[0], hidden, emb)
        for layer, resnet in enumerate(middle.resnets[1:]):
            transformer = attention_of(middle, layer)
            if transformer is not None:
                hidden = self._attend(transformer, hidden, context)
            hidden = self._resnet(resnet, hidden, emb)
        return hidden

    def merge_tokens(self, ratio: float, levels: int = 1) -> None:
        """Merge tokens in the self-attention of the `levels` finest levels that have any.

        ratio: share of the tokens (`vpd.merging`). Raises ConfigError where fewer levels have one.
        """
        found = {level: list(self_attention_layers(self.unet, level)) for level in range(3)}
        having = [level for level, layers in found.items() if layers]
        if len(having) < levels:
            raise ConfigError(
                f"merge_levels is {levels}; levels {having} of this UNet have self-attention"
            )
        for level in having[:levels]:
            for layer in found[level]:
                layer.set_processor(MergingProcessor(layer.processor, ratio, self._grid, level))

    def _run(self, module: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if self.checkpointing is True and torch.is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)
        return module(*inputs)

    def _resnet(self, block: ResnetBlock2D, hidden: Tensor, emb: Tensor) -> Tensor:
        if self.checkpointing == "light" and light.fits(block):
            return light.residual(block, hidden, emb)
        return self._run(block, hidden, emb)

    def _attend(self, transformer: Transformer2DModel, hidden: Tensor, context: Tensor) -> Tensor:
        if self.checkpointing == "light" and all(map(light.fits, transformer.transformer_blocks)):
            return self._transformer(transformer, hidden, context, lambda tokens: tokens)

        def attend(hidden: Tensor, context: Tensor) -> Tensor:
            return transformer(hidden, encoder_hidden_states=context, return_dict=False)[0]

        return self._run(attend, hidden, context)

    def _transformer(
        self,
        transformer: Transformer2DModel,
        hidden: Tensor,
        context: Tensor,
        pairs: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """A transformer of the pass: pictures [P, C, h, w] in, pairs [B, C, h, w] out.

        What diffusers' own forward computes, with the step from pictures to pairs in its middle,
        behind the self-attention of its first block.
        """
        first, *rest = transformer.transformer_blocks
        lightly = self.checkpointing == "light" and all(map(light.fits, (first, *rest)))

        def attend(hidden: Tensor, context: Tensor) -> Tensor:
            h, w = hidden.shape[-2:]
            tokens, width = transformer._operate_on_continuous_inputs(hidden)
            tokens = light.attended(first, tokens, context, pairs, light=lightly)
            for block in rest:
                if lightly:
                    tokens = light.attended(block, tokens, context)
                else:
                    tokens = block(tokens, encoder_hidden_states=context)
            residual = pairs(hidden)
            # Its shape, not its len, which would become a constant when the model is exported.
            return transformer._get_output_for_continuous_inputs(
                tokens, residual, residual.shape[0], h, w, width
            )

        return self._run(attend, hidden, context)


def attention_of(block: nn.Module, layer: int) -> Transformer2DModel | None:
    """The transformer behind residual block `layer` of a UNet block, where there is one."""
    attentions = getattr(block, "attentions", None)
    return None if attentions is None else attentions[layer]


def cross_attention_layers(unet: UNet2DConditionModel, level: int) -> Iterator[Attention]:
    """Cross-attention layers at 1/2^level of the latent: up blocks first, as published."""
    for block in _transformer_blocks(unet, level):
        yield block.attn2


def self_attention_layers(unet: UNet2DConditionModel, level: int) -> Iterator[Attention]:
    """Self-attention layers at 1/2^level of the latent."""
    for block in _transformer_blocks(unet, level):
        yield block.attn1


def _transformer_blocks(unet: UNet2DConditionModel, level: int) -> Iterator[BasicTransformerBlock]:
    for blocks, index in ((unet.up_blocks, len(STRIDES) - 1 - level), (unet.down_blocks, level)):
        for transformer in getattr(blocks[index], "attentions", None) or ():
            yield from transformer.transformer_blocks
