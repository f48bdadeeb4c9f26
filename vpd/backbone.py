"""`DiffusionBackbone`: a text-to-image model read as a feature extractor for (picture, sentence).

Shapes: P pictures, B (picture, sentence) pairs, S sentences, T tokens, D text channels,
H W pixels (both divide by 64), h = H / 8 and w = W / 8 latent cells.

A latent depends on the picture alone, a context on the sentence alone: `encode_image` and
`encode_text` give each once; `forward` is the only part that runs a pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpd import attention, cache, convolution, int8, text, weights
from vpd import trades as trade
from vpd.errors import ConfigError
from vpd.kept_texts import KeptTexts
from vpd.parking import Parking
from vpd.unet import STRIDES, FeaturePyramid, UNetFeatures
from vpd.zoo import named

UNET_MODES = ("frozen", "finetune", "lora")


class DiffusionBackbone(nn.Module):
    """Frozen (or fine-tuned) Stable Diffusion as a four-level feature pyramid.

    Args:
        components: UNet, VAE encoder, text encoder and tokenizer (see `vpd.weights`).
        token_length: tokens a sentence is padded or cut to; the maps have as many channels.
        unet_mode: `frozen` (no gradient step for UNet and VAE), `finetune` (the published recipe;
            the VAE stays frozen) or `lora` (low-rank adapters on the UNet's attention, extra
            `lora`).
        timestep: the constant timestep of the single UNet pass (published code: 1).
        attention_kernel: `sdpa`, `xformers` or `eager`.
        attention_maps: join the cross-attention maps to the pyramid.
        map_gradient: let the loss pass through the maps; the published code cuts it off there.
        text_adapter: False leaves the text features as CLIP gives them.
        latent_scale: factor on the latent; the published code uses 1.0, not SD's 0.18215.
        checkpointing: compute again in the backward pass instead of keeping: True every block,
            `light` what is cheap (`vpd.light`); the same gradients.
        compiled: torch.compile by blocks of the UNet; other rounding.
        lora_rank: of the adapters of `lora`.
        channels_last: keep UNet and VAE with the channels innermost. The same sums in another
            order: faster on many devices, but no longer the same bits.
        trades: options that give up exactness for speed (`vpd.trades`); none by default.

    Raises ConfigError for options that are unknown or do not fit each other or the weights,
    vpd.errors.ExtraError where `lora` or a kernel wants a package that is not installed.
    """

    def __init__(
        self,
        components: weights.Components,
        *,
        token_length: int,
        unet_mode: str = "frozen",
        timestep: int = 1,
        attention_kernel: str = "sdpa",
        attention_maps: bool = True,
        map_gradient: bool = False,
        text_adapter: bool = True,
        latent_scale: float = 1.0,
        checkpointing: bool | str = False,
        compiled: bool = False,
        lora_rank: int = 16,
        channels_last: bool = False,
        trades: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if unet_mode not in UNET_MODES:
            raise ConfigError(
                f"unet_mode {unet_mode!r} is unknown; choose one of {', '.join(UNET_MODES)}"
            )
        self.options: dict[str, Any] = {
            "token_length": token_length,
            "unet_mode": unet_mode,
            "timestep": timestep,
            "attention_kernel": attention_kernel,
            "attention_maps": attention_maps,
            "map_gradient": map_gradient,
            "text_adapter": text_adapter,
            "latent_scale": latent_scale,
            "checkpointing": checkpointing,
            "compiled": compiled,
            "lora_rank": lora_rank,
            "channels_last": channels_last,
        }
        self.source = components.source
        self.token_length = token_length
        self.latent_scale = latent_scale
        self.unet_mode = unet_mode
        self.tokenizer = components.tokenizer
        self.unet = components.unet
        self.vae = components.vae
        self.text_encoder = components.text_encoder
        width = self.unet.config.cross_attention_dim
        if self.text_encoder is not None and self.text_encoder.config.hidden_size != width:
            raise ConfigError(
                f"the text encoder gives {self.text_encoder.config.hidden_size} channels, "
                f"the UNet's cross-attention takes {width}"
            )
        self.adapter = text.TextAdapter(width) if text_adapter else nn.Identity()
        for frozen in (self.vae, self.text_encoder):
            if frozen is not None:
                frozen.requires_grad_(False)
        attention.install(self.vae, attention_kernel)
        self.features = UNetFeatures(
            self.unet,
            timestep=timestep,
            maps=attention_maps,
            map_gradient=map_gradient,
            kernel=attention_kernel,
            checkpointing=checkpointing,
            compiled=compiled,
        )
        self._set_unet_mode(lora_rank)
        self.texts = KeptTexts()
        self._parking: dict[str, Parking] = {}
        if channels_last:
            for part in (self.unet, self.vae):
                part.to(memory_format=torch.channels_last)
        self._tiny_latents: trade.TinyLatents | None = None
        self.trades: dict[str, Any] = trade.checked(None)
        self.trade(trades)

    @classmethod
    def from_name(
        cls, name: str = "sd15", source: str | Path | None = None, *, seed: int = 0, **options: Any
    ) -> DiffusionBackbone:
        """Build the zoo's backbone `name`, from `source` if given (`weights.load_components`)."""
        return cls(weights.load_components(source, named(name), seed=seed), **options)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the joined pyramid, finest (stride 8) first."""
        extra = self.token_length
        return tuple(
            width + (extra if level in self.features.map_layers else 0)
            for level, width in enumerate(self.features.channels)
        )

    @property
    def text_channels(self) -> int:
        """Channels of the text features."""
        return int(self.unet.config.cross_attention_dim)

    @property
    def strides(self) -> tuple[int, ...]:
        return STRIDES

    @torch.no_grad()
    def encode_image(self, picture: Tensor) -> Tensor:
        """picture float [P, 3, H, W] in [-1, 1] -> latent float [P, c, h, w]: the posterior's mode.

        Never carries a gradient, in every unet_mode. Raises ConfigError on sides that do not
        divide by 64.
        """
        height, width = picture.shape[-2:]
        if height % 64 or width % 64:
            raise ConfigError(
                f"the picture's sides must divide by 64; got {height} x {width} (height x width)"
            )
        if self._tiny_latents is not None:
            return self._tiny_latents(picture) * self.latent_scale
        self._wake("vae")
        return self.vae.encode(picture).latent_dist.mode() * self.latent_scale

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Text features float [S, T, D], before the adapter; each distinct sentence is run once.

        Raises:
            TextError: an empty sentence.
            ConfigError: this backbone came from a file without a text encoder.
        """
        if self.text_encoder is None:
            raise ConfigError(
                f"{self.source} holds no text encoder, so sentences cannot be encoded; build the "
                "model with one (text='openai/clip-vit-large-patch14' or a folder), or pass text "
                "features"
            )
        device = next(self.unet.parameters()).device
        found = self.texts.find(sentences, device)
        fresh = [s for s in dict.fromkeys(sentences) if s not in found]
        if fresh:
            self._wake("text_encoder")
            features = text.encode(self.text_encoder, self.tokenizer, fresh, self.token_length)
            for sentence, feature in zip(fresh, features, strict=True):
                found[sentence] = self.texts.store(sentence, feature)
        self.texts.remember(found)
        return torch.stack([found[s].to(device, non_blocking=True) for s in sentences])

    def fast_convolutions(self) -> int:
        """From now on 3x3 convolutions take fewer multiplications (see `vpd.convolution`).

        Where a pass spends most for its weights' size: the UNet's two finest levels and its
        upsampling, the VAE's middle. Costs two GiB at Stable Diffusion's size; has an effect on
        a CPU, in float32, without gradient. Returns the layers changed.
        """
        unet, encoder = self.unet, self.vae.encoder
        upsamplers = [block.upsamplers for block in unet.up_blocks if block.upsamplers is not None]
        return convolution.install(
            *unet.down_blocks[:2], *unet.up_blocks[-2:], *upsamplers, *encoder.down_blocks[1:3]
        )

    def keep_texts(self, root: str | Path, dtype: str = "float32") -> None:
        """Keep text features on disk under `root` from now on (see `vpd.cache`)."""
        if self.text_encoder is None:
            return
        width = self.text_encoder.config.hidden_size
        depends = [cache.weights_digest(self.text_encoder), str(self.token_length)]
        depends.append(f"padded with {self.tokenizer.pad_token}")
        self.texts.on_disk = cache.TensorCache(
            root, "texts", depends, (self.token_length, width), dtype
        )

    def park(self, root: str | Path) -> int:
        """From now on, in training mode, the VAE's and the text encoder's weights wait in files
        under `root` wherever no picture and no sentence is new (see `vpd.parking`).

        Each by itself: a new sentence does not wake the VAE. For a model that lies where it will
        run: it must not be moved behind this. Returns the bytes that then are free.
        """
        parts = {"vae": self.vae, "text_encoder": self.text_encoder}
        self._parking = {n: Parking(p, n, root) for n, p in parts.items() if p is not None}
        self._sleep()
        return sum(parking.nbytes for parking in self._parking.values())

    def _wake(self, name: str) -> None:
        if name in self._parking:
            self._parking[name].wake()

    def _sleep(self) -> None:
        for parking in self._parking.values():
            parking.sleep()

    def latent_cache(
        self, root: str | Path, size: tuple[int, int], dtype: str = "float32"
    ) -> cache.TensorCache:
        """The cache of latents of pictures of `size` (H, W) pixels, by the digest of their resized
        uint8 pixels (see `vpd.cache`)."""
        shape = (self.vae.config.latent_channels, size[0] // 8, size[1] // 8)
        tiny = self._tiny_latents
        parts = [self.vae.encoder, self.vae.quant_conv] if tiny is None else [tiny.encoder]
        depends = [cache.weights_digest(part) for part in parts]
        if tiny is not None:
            depends.append(f"tiny x {tiny.factor!r}")
        if self.options["channels_last"]:
            depends.append("channels last")  # other rounding
        kind = next(self.unet.parameters()).device.type  # the VAE's own may be parked
        rounding = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else "none"
        depends.append(f"mode x {self.latent_scale!r}, autocast {rounding}")
        if kind != "cpu":
            depends.append(kind)  # whose convolutions may round otherwise, in TF32 for example
        return cache.TensorCache(root, "latents", depends, shape, dtype)

    def token_mask(self, sentences: Sequence[str]) -> Tensor:
        """bool [S, T]: True for a sentence's own tokens (begin and end included), not its padding.

        Raises TextError for an empty sentence.
        """
        ids = text.tokenize(self.tokenizer, sentences, self.token_length)
        first_end = (ids == self.tokenizer.eos_token_id).int().argmax(dim=1)
        places = torch.arange(self.token_length)
        device = next(self.unet.parameters()).device
        return (places <= first_end[:, None]).to(device, non_blocking=True)

    def forward(
        self, latent: Tensor, text_features: Tensor, picture_index: Tensor | None = None
    ) -> FeaturePyramid:
        """latent [P, c, h, w], text features [B, T, D], picture_index int64 [B] -> pyramid of B.

        `picture_index[b]` says which latent pair b looks at; without it P must equal B.

        Raises:
            ConfigError: a wrong token length or picture size.
        """
        if text_features.shape[1] != self.token_length:
            raise ConfigError(
                f"text features have {text_features.shape[1]} tokens; this model was built for "
                f"token_length {self.token_length}"
            )
        if self.training:
            self._sleep()  # pictures and sentences have been encoded, or had been before
        return self.features(latent, self.adapter(text_features), picture_index)

    def trade(self, wanted: Mapping[str, Any] | None) -> None:
        """Put trades to use, once, when the weights are in place; there is no way back.

        wanted: `vpd.trades` by name; those not named stay off.

        Raises:
            ConfigError: an unknown trade, a value out of range, one that does not fit this
                backbone, or a second call.
            WeightsError: the tiny autoencoder cannot be loaded.
        """
        found = trade.checked(wanted)
        if not trade.names(found):
            return
        if trade.names(self.trades):
            raise ConfigError(f"trades are made once; there are {', '.join(self.trade_names)}")
        if found["int8"]:
            if self.unet_mode != "frozen":
                raise ConfigError("trade int8 needs unet_mode='frozen': 8-bit weights do not learn")
            int8.quantise(self.unet)
        if found["merge_tokens"]:
            self.features.merge_tokens(found["merge_tokens"], found["merge_levels"])
        if found["tiny_vae"] is not None:
            self._tiny_latents = trade.TinyLatents(found["tiny_vae"], self.vae.config)
            self._tiny_latents.encoder.to(self.vae.device)
        self.trades = self.options["trades"] = found

    @property
    def trade_names(self) -> list[str]:
        """The trades in use, for people; empty on the exact path."""
        return trade.names(self.trades)

    def _set_unet_mode(self, lora_rank: int) -> None:
        self.unet.requires_grad_(self.unet_mode == "finetune")
        # The published pass never reaches these two; no optimizer and no DDP should wait for them.
        self.unet.conv_norm_out.requires_grad_(False)
        self.unet.conv_out.requires_grad_(False)
        if self.unet_mode == "lora":
            try:
                from peft import LoraConfig
            except ImportError as error:
                from vpd.errors import missing_extra

                raise missing_extra("peft", "lora", "unet_mode='lora'") from error
            targets = ["to_q", "to_k", "to_v", "to_out.0"]
            self.unet.add_adapter(
                LoraConfig(r=lora_rank, lora_alpha=lora_rank, target_modules=targets)
            )

    def train(self, mode: bool = True) -> DiffusionBackbone:
        """Frozen parts stay in evaluation mode."""
        super().train(mode)
        self.vae.eval()
        if self.text_encoder is not None:
            self.text_encoder.eval()
        if self.unet_mode == "frozen":
            self.unet.eval()
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> DiffusionBackbone:
        """Moving or casting the module makes cached text features stale."""
        if hasattr(self, "texts"):
            if self._parking:
                raise ConfigError("parked weights stay where they are; move or cast before")
            self.texts.forget()
            self.features.time.forget()
            if self._tiny_latents is not None:  # no submodule: it is in no checkpoint
                self._tiny_latents.encoder._apply(fn)
        return super()._apply(fn, recurse)

    def architecture(self) -> dict[str, Any]:
        """What `weights.empty_components` and `options` need to rebuild this module."""
        part = self.text_encoder
        return {
            "unet": _plain(self.unet.config),
            "vae": _plain(self.vae.config),
            "text": part.config.to_diff_dict() if part is not None else None,
            "pad_token": self.tokenizer.pad_token,
            "options": self.options,
            "source": self.source,
        }


def _plain(config: Any) -> dict[str, Any]:
    return {key: value for key, value in dict(config).items() if not key.startswith("_")}
