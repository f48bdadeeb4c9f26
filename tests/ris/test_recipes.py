"""The recipes of the configs for Stable Diffusion are those of the papers that they name."""

from __future__ import annotations

import pytest

from ris.engine import settings

RELA = {
    "model.loss_weights": {"total": 5.0, "minimap": 0.1, "no_target": 0.1},
    "model.head.grid": 10,
    "model.class_weight": (0.9, 1.1),
    "data.overlap": "union",
    "gres": {"no_target": None, "drawn_at": "input", "pixels": 50, "match": "giou"},
}
REFTR = {
    "model.loss_weights": {"l1": 1.0, "giou": 1.0, "edges": 0.0, "focal": 1.0, "dice": 1.0},
    "model.divide_by": "captions",
    "optim.weight_decay": 1e-4,
    "optim.clip": 0.1,
    "optim.schedule": "step",
    "optim.lr_batch": 32,
    "grounding": {"protocol": "reftr", "clamp": False},
}
BOXES = {
    "model.head.answers": "boxes",
    "model.auxiliary": True,
    "optim.lr": 1e-4,
    "optim.lr_drop": (60,),
    "optim.unet_scale": 0.1,
    "schedule.epochs": 90,
}
MASKS = {
    "model.head.answers": "both",
    "model.auxiliary": False,
    "optim.lr": 1e-5,
    "optim.lr_drop": (30,),
    "optim.unet_scale": 1.0,
    "optim.lr_scale": {"head.mask": 10.0},
    "schedule.epochs": 40,
}


@pytest.mark.parametrize(
    ("config", "recipe"),
    [
        ("gres/grefcoco_sd15_512.py", RELA),
        ("rec/refcoco_sd15_512.py", REFTR | BOXES),
        ("rec/refcocog_sd15_512.py", REFTR | BOXES),
        ("rec/masks/refcoco_sd15_512.py", REFTR | MASKS),
    ],
)
def test_other_tasks_have_the_recipes_of_their_papers(config, recipe):
    found = settings.load(settings.CONFIGS / config)
    for name, value in recipe.items():
        own = found
        for part in name.split("."):
            own = own[part]
        assert own == value, name
