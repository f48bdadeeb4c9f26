"""The items of a test run with what the data says of them, and their means by kind.

Shapes: H W pixels of the size that masks were compared at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from refer import REFER
from refer.evaluation import ItemRecord, ResProtocol
from refer.evaluation.scores import iou
from ris.errors import CheckpointError

# Upper ends, included.
LENGTHS = (1, 2, 3, 5, 7, 10)  # words
SHARES = (0.01, 0.03, 0.1, 0.2, 0.4)  # of the picture's pixels


class Item(NamedTuple):
    """A sentence: its record, its IoU in [0, 1], its text, and the share of the picture in [0, 1]
    that the object covers."""

    record: ItemRecord
    iou: float
    text: str
    share: float

    @property
    def words(self) -> int:
        """Words between white space."""
        return len(self.text.split())


@dataclass(frozen=True)
class Group:
    """Items of one kind: how it is called, how many, and their mean IoU in [0, 1]."""

    name: str
    count: int
    mean: float


def join(records: Iterable[ItemRecord], protocol: ResProtocol, refer: REFER, field: str = "sent"
         ) -> list[Item]:  # fmt: skip
    """Items in the records' order, those left out that the protocol leaves out.

    field: what of a sentence the model read, 'sent' or 'raw'.

    Raises CheckpointError if the records are of other data.
    """
    found = []
    for record in records:
        own = iou(record, protocol)
        sentence = refer.Sents.get(record.sent_id)
        if sentence is None or record.ref_id not in refer.Refs:
            raise CheckpointError(
                f"ref {record.ref_id}, sentence {record.sent_id} of the records is not in "
                f"{refer.refs_path}; give the data that was tested on"
            )
        text = str(sentence[field])
        if protocol.sentence_mode == "concat":
            text = " ".join(s[field].strip() for s in refer.Refs[record.ref_id]["sentences"])
        if own is not None:
            found.append(
                Item(record, own, text, record.target_area / _pixels(record, protocol, refer))
            )
    return found


def _pixels(record: ItemRecord, protocol: ResProtocol, refer: REFER) -> int:
    image = refer.Imgs[refer.Refs[record.ref_id]["image_id"]]
    height, width = protocol.size or (image["height"], image["width"])
    return int(height * width)


def by_length(items: Sequence[Item]) -> list[Group]:
    """Mean IoU by the number of words."""
    names = _names([str(end) for end in LENGTHS], [str(end + 1) for end in (0, *LENGTHS)])
    return _grouped(items, lambda item: item.words, LENGTHS, names)


def by_share(items: Sequence[Item]) -> list[Group]:
    """Mean IoU by the share of the picture that the object covers."""
    ends = [f"{100 * end:g}" for end in SHARES]
    names = [f"{name} %" for name in _names(ends, ["0", *ends])]
    return _grouped(items, lambda item: item.share, SHARES, names)


def extremes(items: Sequence[Item], count: int = 20) -> tuple[list[Item], list[Item]]:
    """(worst, best) by IoU, at most `count` and half of the items each; of equals, those with the
    larger object first, whose failure says more."""
    count = min(count, max(1, len(items) // 2))
    order = sorted(
        items,
        key=lambda item: (
            item.iou, -item.record.target_area, item.record.ref_id, item.record.sent_id
        ),
    )  # fmt: skip
    return order[:count], order[: -count - 1 : -1]


def _names(ends: Sequence[str], starts: Sequence[str]) -> list[str]:
    inner = [
        end if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=False)
    ]
    return [*inner, f"{starts[-1]}+"]


def _grouped(
    items: Sequence[Item],
    value: Callable[[Item], float],
    ends: Sequence[float],
    names: Sequence[str],
) -> list[Group]:
    """Empty groups are left out."""
    groups: list[list[float]] = [[] for _ in names]
    for item in items:
        groups[sum(value(item) > end for end in ends)].append(item.iou)
    return [
        Group(name, len(ious), sum(ious) / len(ious))
        for name, ious in zip(names, groups, strict=True)
        if ious
    ]
