"""`RefDataset`: one item a ref, as the published training reads the data.

Shapes: H W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from refer.api import REFER
from refer.datasets.source import Item, Ref, ReferSplit, TextField
from refer.errors import PictureError, UnknownNameError
from refer.options import DrawnAt, OverlapRule
from refer.sentences import OnEmpty, Sentence, SentenceMode


class RefDataset(ReferSplit):
    """The refs of a split in file order; an epoch is one pass over refs, not over sentences.

    An item is a dict of
        image     uint8 [3, H, W], RGB, squashed to `size`
        mask      uint8 [H, W] in {0, 1}
        text      str
        ref_id, sent_id, image_id   int
        picture   str, the path, which is another for every picture of a mixture
        n_targets   int, objects the sentence names; 1 but in generalized data sets

    Args:
        refer: the data.
        split: 'train', 'val', ... as `REFER.getRefIds` takes it.
        size: side of a square, or (H, W), in pixels.
        sentence_mode: 'random' asks one sentence a ref, drawn from (seed, epoch, ref_id) alone;
            'first' the first; 'concat' all in one; 'all' makes one item a sentence.
        overlap: 'union' counts pixels under several parts of an outline as the object; 'drop', what
            VPD and LAVT train on, as background.
        text_field: 'sent' (cleaned, lower case) or 'raw' (LAVT).
        seed: of the random sentences.
        on_empty: 'error' refuses a split with an empty sentence, since leaving it out changes the
            number of items scored; 'skip' leaves it out, and a ref without any other with it.
        transform: called with each finished item; what it returns is the item. It must be picklable
            for worker processes.
        keep_in_memory: keep every resized picture and mask once read, for small sets; each worker
            process has its own.
        fraction: share of the split's pictures to keep, all their refs with them, drawn from the
            seed; a smaller share is part of a larger one, whatever the order of the ref file.
        max_broken: 0 raises at the first picture that cannot be read; more lets the next ref whose
            picture is sound take its place, and the item names it in `broken` (a str). Whoever
            reads the items counts them over all workers; here, a worker that meets more raises.
        content: items also hold `content`, the sha256 (bytes) of their resized pixels.
        drawn_at: 'original' draws outlines at the picture's size and resizes the mask (nearest), as
            VPD does; 'input' draws them at `size` (ReLA).

    Raises the errors of `refer`, which name file, ref and cure, when built (options, ids, missing
    pictures, empty sentences) or when indexed (damaged pictures and outlines).
    """

    def __init__(
        self,
        refer: REFER,
        split: str,
        size: int | Sequence[int] = 512,
        sentence_mode: SentenceMode = "random",
        overlap: OverlapRule = "union",
        text_field: TextField = "sent",
        seed: int = 0,
        on_empty: OnEmpty = "error",
        transform: Callable[[Item], Item] | None = None,
        keep_in_memory: bool = False,
        fraction: float = 1.0,
        max_broken: int = 0,
        content: bool = False,
        drawn_at: DrawnAt = "original",
    ) -> None:
        super().__init__(
            refer,
            split,
            size,
            sentence_mode,
            overlap,
            text_field,
            seed,
            on_empty,
            transform,
            keep_in_memory,
            drawn_at,
        )
        if not 0 < fraction <= 1:
            raise UnknownNameError(f"fraction is {fraction}; want more than 0 and at most 1")
        if fraction < 1:
            self.refs = _share(self.refs, fraction, seed)
        self.max_broken, self.content = max_broken, content
        self._broken: dict[str, None] = {}
        # With 'all' the items are fixed; else the sentence of a ref is chosen when it is read.
        self._pairs: list[tuple[Ref, Sentence]] | None = None
        if sentence_mode == "all":
            self._pairs = [(ref, sentence) for ref in self.refs for sentence in ref.sentences]

    @property
    def pictures(self) -> list[str]:
        """Path of the picture of every item."""
        refs = self.refs if self._pairs is None else [ref for ref, _ in self._pairs]
        return [str(ref.picture.path) for ref in refs]

    def __len__(self) -> int:
        return len(self.refs if self._pairs is None else self._pairs)

    def __getitem__(self, index: int) -> Item:
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        broken: list[str] = []
        for step in range(len(self)):
            place = (index + step) % len(self)
            ref = self.refs[place] if self._pairs is None else self._pairs[place][0]
            try:
                item = self._read(place)
            except PictureError as error:
                self._note_broken(str(ref.picture.path), error)
                broken.append(str(ref.picture.path))
            else:
                return {**item, "broken": broken} if broken else item
        raise PictureError(f"not one of {len(self)} items has a picture that can be read")

    def _note_broken(self, path: str, error: PictureError) -> None:
        self._broken[path] = None
        if not self.max_broken:
            raise error
        if len(self._broken) > self.max_broken:
            raise PictureError(
                f"more than max_broken = {self.max_broken} broken pictures: "
                f"{', '.join(self._broken)}; the last: {error}"
            ) from error

    def _read(self, index: int) -> Item:
        if self._pairs is not None:
            ref, sentence = self._pairs[index]
        else:
            ref = self.refs[index]
            (sentence,) = self.asked(ref)
        item: Item = {
            "image": self.image(ref),
            "mask": self.mask(ref),
            "text": sentence.text,
            "ref_id": ref.ref_id,
            "sent_id": sentence.sent_id,
            "image_id": ref.picture.image_id,
            "picture": str(ref.picture.path),
            "n_targets": len(ref.targets),
        }
        item = self.finish(item)
        if self.content:  # of what the model will see, whatever the transform did
            item["content"] = hashlib.sha256(item["image"].numpy().tobytes()).digest()
        return item


def _share(refs: list[Ref], fraction: float, seed: int) -> list[Ref]:
    """The refs of a share of the pictures: those whose hashed id comes first, one at least."""

    def rank(image_id: int) -> bytes:
        return hashlib.sha256(f"{seed}:{image_id}".encode()).digest()

    pictures = sorted({ref.picture.image_id for ref in refs}, key=rank)
    kept = set(pictures[: max(1, round(fraction * len(pictures)))])
    return [ref for ref in refs if ref.picture.image_id in kept]
