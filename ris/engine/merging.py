"""What every metric does: collect without waiting, merge over the processes, score, write."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric

WAIT_EVERY = 64  # batches between two reads of the device
OnScores = Callable[[dict[str, Any], float], None]


class MergingMetric(BaseMetric):
    """A metric whose evaluators, and not lists of results, are gathered and merged.

    Args:
        header: what is said of the run wherever scores are written (data set, split, data hash,
            model, trades).
        on_scores: called on the first rank with the scores and seconds of a finished evaluation.

    Attributes:
        evaluated: whether any evaluation has been finished.
    """

    default_prefix = ""  # scores are named as they are; None would be warned of

    def __init__(self, header: dict[str, Any], on_scores: OnScores | None = None) -> None:
        super().__init__()
        self.header, self.on_scores = header, on_scores
        self.evaluated = False
        self._begin()

    def _begin(self) -> None:
        self.started: float | None = None
        self._pending: list[Any] = []
        self._fresh()

    @abstractmethod
    def _fresh(self) -> None:
        """New evaluators."""

    @abstractmethod
    def _collect(self, batch: Any, answers: list[Any]) -> Any:
        """What must be kept of a batch, still on the device: reading it now would wait for it."""

    @abstractmethod
    def _read(self, pending: list[Any]) -> None:
        """Take into the evaluators what was kept; the only place that waits for the device."""

    @abstractmethod
    def _state(self) -> Any:
        """The evaluators as what can be gathered."""

    @abstractmethod
    def _merge(self, states: list[Any]) -> None:
        """Evaluators of all processes in place of this one's."""

    @abstractmethod
    def _score(self) -> dict[str, Any]:
        """Scores by name."""

    @abstractmethod
    def _write(self, scores: dict[str, Any]) -> None:
        """Files and tables, by the first rank."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """data_samples: one answer for each sentence or phrase of the batch."""
        if self.started is None:
            self.started = time.monotonic()
        self._pending.append(self._collect(data_batch, list(data_samples)))
        if len(self._pending) >= WAIT_EVERY:
            self._take_in()

    def _take_in(self) -> None:
        if self._pending:
            self._read(self._pending)
            self._pending.clear()

    def evaluate(self, size: int) -> dict[str, float]:
        """Merge the ranks' evaluators; every rank gets the same scores."""
        self._take_in()
        if dist.is_initialized() and dist.get_world_size() > 1:
            states: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(states, self._state())
            self._merge(states)
        seconds = time.monotonic() - (self.started or time.monotonic())
        self.evaluated = True
        scores = self._score()
        if is_main_process():
            self._write(scores)
            if self.on_scores is not None:
                self.on_scores(scores, seconds)
        self._begin()
        return {name: value for name, value in scores.items() if isinstance(value, float)}

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Unused: `evaluate` merges evaluators instead of result lists."""
        raise AssertionError("evaluate does the work")
