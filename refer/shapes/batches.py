"""Make pictures in batches, in parallel; batches come back in order of split and index."""

from __future__ import annotations

import math
import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
from PIL import Image

from refer.shapes.extras import Extras, write_label_map
from refer.shapes.records import Record, make_page

_BATCH = 32


@dataclass
class Batch:
    """What a run of pictures adds to the record files; ``digests`` holds a sha256 a picture."""

    images: list[Record] = field(default_factory=list)
    annotations: list[Record] = field(default_factory=list)
    refs: list[Record] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    extras: Extras = field(default_factory=Extras)

    def extend(self, other: Batch) -> None:
        """Append the records of later pictures."""
        self.images += other.images
        self.annotations += other.annotations
        self.refs += other.refs
        self.digests += other.digests
        self.extras.extend(other.extras)


def batches(
    pictures: Path, labels: Path | None, options: dict[str, Any], workers: int | None
) -> Iterator[Batch]:
    """Write every picture under ``pictures`` and yield the records, made by ``workers`` processes.

    ``labels``: folder for the class maps, given when the extras are wanted.
    """
    jobs = [
        (pictures, labels, options, split, start, min(start + _BATCH, count))
        for split, count in options["pictures"].items()
        for start in range(0, count, _BATCH)
    ]
    wanted = workers if workers is not None else os.cpu_count() or 1
    # A process costs more to start than a few batches cost to make.
    wanted = min(wanted, math.ceil(len(jobs) / 2))
    if wanted <= 1:
        for job in jobs:
            yield _make_batch(*job)
        return
    with _pool(wanted) as pool:
        # A queue, so that a batch is let go once it is used.
        futures = deque(pool.submit(_make_batch, *job) for job in jobs)
        while futures:
            yield futures.popleft().result()


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(workers, initializer=_settle)
    try:
        yield pool
    finally:
        # Whoever interrupts should not wait for the pictures still in the queue.
        pool.shutdown(cancel_futures=True)


def _settle() -> None:
    """In a worker: Ctrl-C is the parent's to handle, and processes are the parallelism."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)


def _make_batch(
    pictures: Path, labels: Path | None, options: dict[str, Any], split: str, start: int, stop: int
) -> Batch:
    batch = Batch()
    height, width = options["size"]
    for index in range(start, stop):
        page = make_page(options["seed"], split, index, height, width)
        path = pictures / page.image["file_name"]
        Image.fromarray(page.picture).save(path, quality=95, subsampling=0)
        batch.images.append(page.image)
        batch.annotations += page.annotations
        batch.refs += page.refs
        batch.digests.append(page.digest())
        if labels is not None:
            batch.extras.add(page, options["seed"], index)
            write_label_map(page, labels)
    return batch
