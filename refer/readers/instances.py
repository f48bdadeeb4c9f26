"""`instances.json`: pictures, categories, and annotations that are parsed when looked into."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import msgspec

from refer.errors import DataFileError
from refer.files import read_file
from refer.masks import MAX_PIXELS
from refer.readers import paused_gc

# pycocotools takes any number and counts on its being one of pixels.
Side = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
_log = logging.getLogger(__name__)
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Annotation(dict[str, Any]):
    """An annotation: a dict whose JSON is parsed on the first look beyond its ids.

    `id`, `image_id` and `category_id` are there at once; any other key, or any question about the
    whole (length, keys, equality, copy, ...), parses the rest and leaves an ordinary filled dict.
    Most annotations of a file are never looked into, and polygons are most of the file. Pickling
    (to worker processes, say) keeps an unparsed annotation unparsed.
    """

    __slots__ = ("_json",)

    def __init__(self, json: msgspec.Raw, ids: dict[str, Any]) -> None:
        super().__init__(ids)
        self._json: msgspec.Raw | None = json

    def __missing__(self, key: str) -> Any:
        if self._json is None:
            raise KeyError(key)
        self._fill()
        return dict.__getitem__(self, key)

    def peek(self, key: str) -> Any:
        """The value of `key`, parsed afresh and not kept: memory stays flat over an epoch.

        Changes made to a filled annotation are seen. Raises KeyError for an absent key.
        """
        return self[key] if self._json is None else self._parse(self._json)[key]

    def _fill(self) -> None:
        if self._json is not None:
            dict.update(self, self._parse(self._json))
            self._json = None

    def _parse(self, json: msgspec.Raw) -> dict[str, Any]:
        try:
            return _decode(json)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            ann_id = dict.__getitem__(self, "id")
            raise DataFileError(f"annotation {ann_id!r} is damaged: {error}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        if self._json is None:
            return dict, (dict(self),)
        ids = {key: dict.__getitem__(self, key) for key in dict.__iter__(self)}
        return Annotation, (self._json, ids)


def _after_filling(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(self: Annotation, *args: Any, **kwargs: Any) -> Any:
        self._fill()
        for other in args:
            if isinstance(other, Annotation):
                other._fill()
        return method(self, *args, **kwargs)

    return call


# With `__iter__` among them, `dict(annotation)` and `{**annotation}` ask these methods instead of
# copying the unfilled storage.
for _name in (
    *("__contains__", "__delitem__", "__eq__", "__ior__", "__iter__", "__len__", "__ne__"),
    *("__or__", "__repr__", "__reversed__", "__ror__", "__setitem__", "clear", "copy", "get"),
    *("items", "keys", "pop", "popitem", "setdefault", "update", "values"),
):
    setattr(Annotation, _name, _after_filling(getattr(dict, _name)))


def checked_box(value: Any, where: str) -> list[float]:
    """An annotation's `bbox` as it is. Raises DataFileError, beginning with `where`, unless it is
    [x, y, width, height], finite numbers."""
    try:
        numbers = msgspec.convert(value, tuple[float, float, float, float])
    except (msgspec.ValidationError, OverflowError):
        numbers = (math.nan,) * 4
    if not all(map(math.isfinite, numbers)):
        shown = repr(value)
        raise DataFileError(
            f"{where} has the bbox {shown if len(shown) <= 60 else shown[:57] + '...'}; want "
            "[x, y, width, height] in pixels"
        )
    return value


class _Ids(msgspec.Struct, gc=False):
    id: int | str
    image_id: int | str
    category_id: int | str


class _Picture(msgspec.Struct, gc=False):
    id: int | str
    file_name: str
    height: Side
    width: Side


class _Category(msgspec.Struct, gc=False):
    id: int | str
    name: str


class _Unparsed(msgspec.Struct):
    images: list[dict[str, Any]]
    annotations: list[msgspec.Raw]
    categories: list[dict[str, Any]]


class _Checked(msgspec.Struct):
    images: list[_Picture]
    annotations: list[_Ids]
    categories: list[_Category]


class Instances(msgspec.Struct, frozen=True):
    """What an `instances.json` holds, in file order."""

    images: list[dict[str, Any]]
    annotations: list[Annotation]
    categories: list[dict[str, Any]]


def load_instances(path: str | os.PathLike[str]) -> Instances:
    """Read a COCO-style `instances.json`.

    Images have at least `id`, `file_name`, `height`, `width` (pixels); annotations `id`, `image_id`
    and `category_id`; categories `id` and `name`. The bytes of the file stay in memory, since
    unparsed annotations point into them.

    Raises MissingDataError when there is no such file; DataFileError, naming the file and the place
    in it, when it is no JSON, lacks a key, or has a picture of more pixels than can be drawn.
    """
    path = Path(path)
    content = read_file(
        path, f"no annotation file at {path}; put the data set's instances.json there"
    )
    with paused_gc():
        try:
            # Two quick passes over the bytes, with no Python code run for each annotation: one
            # checks the keys and reads the ids, the other finds where each annotation begins.
            checked = msgspec.json.decode(content, type=_Checked)
            unparsed = msgspec.json.decode(content, type=_Unparsed)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DataFileError(
                f"{path}: not a COCO-style instances file, or damaged: {error}; fetch it again"
            ) from error
        _check_pictures(checked.images, path)
        annotations = [
            Annotation(
                json, {"id": ids.id, "image_id": ids.image_id, "category_id": ids.category_id}
            )
            for json, ids in zip(unparsed.annotations, checked.annotations, strict=True)
        ]
    return Instances(unparsed.images, annotations, unparsed.categories)


def _check_pictures(images: list[_Picture], path: Path) -> None:
    """Refuse sizes whose masks take all memory, and say when a picture is there twice."""
    for image in images:
        if image.height * image.width > MAX_PIXELS:
            raise DataFileError(
                f"{path}: image {image.id!r} is {image.height} x {image.width}; want "
                f"{MAX_PIXELS} pixels at most"
            )
    if len({image.id for image in images}) < len(images):
        _log.warning("%s: some image ids occur twice; the last counts", path)
