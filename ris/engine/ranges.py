"""What a number in the settings may be, asked before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ris.errors import OptionError


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`.

    Args:
        least, most: ends, which belong to it unless `open_least` or `open_most` says otherwise.
        whole: no fractions.
        absent: None is taken too.
        off: what 0 means where it is no number like the others, for the message.
    """

    least: float = -math.inf
    most: float = math.inf
    open_least: bool = False
    open_most: bool = False
    whole: bool = False
    absent: bool = False
    off: str = ""

    def holds(self, value: Any) -> bool:
        if value is None:
            return self.absent
        kinds = (int,) if self.whole else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or not math.isfinite(value):
            return False
        low = value > self.least if self.open_least else value >= self.least
        high = value < self.most if self.open_most else value <= self.most
        return low and high

    def __str__(self) -> str:
        parts = ["a whole number" if self.whole else "a number"]
        if self.least > -math.inf:
            parts.append(f"above {self.least:g}" if self.open_least else f"from {self.least:g} on")
        if self.most < math.inf:
            parts.append(f"below {self.most:g}" if self.open_most else f"up to {self.most:g}")
        return " ".join(parts) + (" or None" if self.absent else "") + self.off


COUNT = Range(0, whole=True)
POSITIVE = Range(1, whole=True)
SHARE = Range(0)
SECONDS = Range(0, off="; 0 waits for ever")
RATE = Range(0, open_least=True)

RANGES: dict[str, Range] = {
    "data.eval_pictures": POSITIVE,
    "data.loader_timeout": SECONDS,
    "data.max_broken": COUNT,
    "data.train_fraction": Range(0, 1, open_least=True),
    "data.workers": COUNT,
    "gres.pixels": COUNT,
    "model.backbone.latent_scale": RATE,
    "model.backbone.lora_rank": POSITIVE,
    "model.backbone.timestep": Range(0, 999, whole=True),
    "model.dice_weight": SHARE,
    "model.latent_cache_mb": COUNT,
    "model.sentence_batch": POSITIVE,
    "optim.accumulate": POSITIVE,
    "optim.clip": Range(0, open_least=True, absent=True),
    "optim.ema": Range(0, 1, open_least=True, open_most=True, absent=True),
    "optim.lr": SHARE,
    "optim.lr_batch": Range(1, whole=True, absent=True),
    "optim.muon": Range(0, open_least=True, absent=True),
    "optim.power": SHARE,
    "optim.unet_scale": RATE,
    "optim.warmup": COUNT,
    "optim.warmup_epochs": COUNT,
    "optim.weight_decay": SHARE,
    "schedule.batch_size": POSITIVE,
    "schedule.epochs": POSITIVE,
    "schedule.print_freq": POSITIVE,
    "schedule.val_interval": POSITIVE,
    "seed": Range(0, 2**32 - 1, whole=True),
    "survival.collective_timeout": RATE,
    "survival.keep_last": POSITIVE,
    "survival.max_skipped": COUNT,
    "survival.max_streak": COUNT,
    "survival.save_every": Range(0, whole=True, off="; 0 saves at the end of epochs only"),
    "survival.stall_timeout": SECONDS,
}
# Numbers that others check, who know more of them: heads, `settings.load`, the losses.
ELSEWHERE = ("data.image_size", "data.token_length", "model.backbone.trades.", "model.head.",
             "model.loss_weights.", "optim.lr_scale.")  # fmt: skip


def check(entries: Mapping[str, Any]) -> None:
    """Raise OptionError for the first entry, by its full name, that is out of its range."""
    for name, wanted in RANGES.items():
        if name in entries and not wanted.holds(entries[name]):
            raise OptionError(f"{name} is {entries[name]!r}; want {wanted}")
    weights = entries.get("model.class_weight")
    if weights is not None:
        numbers = list(weights) if isinstance(weights, (list, tuple)) else []
        if len(numbers) != 2 or not all(Range(0, open_least=True).holds(one) for one in numbers):
            raise OptionError(
                f"model.class_weight is {weights!r}; want two numbers above 0, of the background "
                "and of what is referred to"
            )
