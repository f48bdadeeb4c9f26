"""An exponential average of the trained weights, scored and saved in their place."""

from __future__ import annotations

from typing import Any

from diffusers.training_utils import EMAModel
from mmengine.hooks import Hook
from torch import Tensor

from ris.engine.hooks import plain_model
from ris.engine.shard import like, reshard


class EMAHook(Hook):
    """Averages after every step; validation and the best weights see the average.

    Args:
        decay: of the average, reached after a warm-up, as diffusers' `EMAModel` does it.
    """

    priority = "ABOVE_NORMAL"  # swaps before others look at the weights, and back after them

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: EMAModel | None = None

    def before_train(self, runner: Any) -> None:
        parameters = self._parameters(runner)
        if self.average is None:
            self.average = EMAModel(parameters, decay=self.decay, use_ema_warmup=True, power=0.75)
        saved, step = getattr(runner, "ema_state", (None, 0))
        if saved:
            for index, own in enumerate(self.average.shadow_params):
                own.copy_(like(saved[str(index)], own))
            self.average.optimization_step = step
        runner.ema = self

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        assert self.average is not None
        if (runner.iter + 1) % runner.optim_wrapper._accumulative_counts == 0:
            self.average.step(self._parameters(runner))

    def before_val_epoch(self, runner: Any) -> None:
        if self.average is not None:
            self.average.store(self._parameters(runner))
            self.average.copy_to(self._parameters(runner))

    def give_back(self, runner: Any) -> None:
        """The weights that are trained, after others have looked at the average."""
        if self.average is not None:
            reshard(plain_model(runner))  # an evaluation gathers what was stored in shares
            self.average.restore(self._parameters(runner))

    def tensors(self) -> dict[str, Tensor]:
        assert self.average is not None
        return {str(index): value for index, value in enumerate(self.average.shadow_params)}

    @staticmethod
    def _parameters(runner: Any) -> list[Any]:
        return [p for p in plain_model(runner).parameters() if p.requires_grad]


class EMAReturnHook(Hook):
    """Ends what `EMAHook` began, behind every hook that looks at the validated weights."""

    priority = "LOWEST"

    def __init__(self, ema: EMAHook) -> None:
        self.ema = ema

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        self.ema.give_back(runner)
