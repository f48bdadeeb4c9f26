"""The loss of the denoiser's training against its formula, and the words that it is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vpd.pretrain import Plan, denoiser
from vpd.text import clip_tokenizer

GAMMA = 5.0
Loss = Callable[[torch.Generator], Tensor]


class Silent(nn.Module):
    """Stands for both networks: predicts no noise and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, *given: Any, input_ids: Tensor | None = None) -> SimpleNamespace:
        self.given, self.words = given, input_ids
        return SimpleNamespace(
            last_hidden_state=torch.zeros(1), sample=torch.zeros_like(given[0]) if given else None
        )


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Silent, Silent, Loss]]:
    """UNet, text encoder and loss of a training on pictures whose latents are zero."""

    def build(captions: list[str], **options: Any) -> tuple[Silent, Silent, Loss]:
        monkeypatch.setattr(denoiser, "run", lambda name, model, plan, loss, *rest, **more: loss)
        unet, text = Silent(), Silent()
        plan = Plan(steps=1, batch=64, lr=0.1, options={"snr_gamma": GAMMA, **options})
        latents = torch.zeros(len(captions), 4, 2, 2)
        loss: Any = denoiser.train_denoiser(
            unet, text, clip_tokenizer(), latents, [[one] for one in captions], plan, Path()
        )  # type: ignore[arg-type]
        return unet, text, loss

    return build


def test_steps_are_weighed_by_what_is_left_of_the_picture(built):
    """Min-SNR (Hang et al. 2023), for a network that predicts the noise: min(SNR, gamma) / SNR."""
    unet, _, loss = built(["a red star"], lengths=[8], dropout=0.0)
    found = loss(torch.Generator().manual_seed(0))
    noisy, times, _ = unet.given
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    left = (1 - betas).cumprod(0)[times]
    noise = noisy / (1 - left).sqrt()[:, None, None, None]
    ratio = left / (1 - left)
    weight = ratio.clamp(max=GAMMA) / ratio
    assert weight.min() < 0.1 < 1.0 == weight.max()
    torch.testing.assert_close(found, (weight * noise.square().mean(dim=(1, 2, 3))).mean())


def test_a_caption_that_is_cut_still_ends(built):
    long = "a red star left of a blue ring above a green heart"
    _, text, loss = built([long], lengths=[4, 8], dropout=0.25)
    tokenizer = clip_tokenizer()
    whole, nothing = (tokenizer(said, padding="max_length", max_length=20)["input_ids"]
                      for said in (long, ""))  # fmt: skip
    seen = set()
    for seed in range(20):
        loss(torch.Generator().manual_seed(seed))
        rows = {tuple(row) for row in text.words.tolist()}
        length = text.words.shape[1]
        seen.add(length)
        end = tokenizer.eos_token_id
        assert rows == {(*whole[: length - 1], end), tuple(nothing[:length])}
    assert seen == {4, 8}
