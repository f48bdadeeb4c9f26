"""What the published ref files hold, and which of their splits share pictures by design.

Counts of RefCOCO, RefCOCO+ and RefCOCOg are known exactly; where a number was never published it is
None. gRefCOCO has no row: its releases differ, so counts are printed and compared with nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from refer.api import REFER, Id
from refer.errors import MissingDataError


class Counts(NamedTuple):
    """Pictures, refs (objects) and sentences of a split; None is unknown."""

    pictures: int | None
    refs: int | None = None
    sentences: int | None = None


OFFICIAL: dict[tuple[str, str], dict[str, Counts]] = {
    ("refcoco", "unc"): {
        "train": Counts(16_994, 42_404, 120_624),
        "val": Counts(1_500, 3_811, 10_834),
        "testA": Counts(750, 1_975, 5_657),
        "testB": Counts(750, 1_810, 5_095),
    },
    ("refcoco", "google"): {
        "train": Counts(19_213, 40_000),
        "val": Counts(4_559, 5_000),
        "test": Counts(4_527, 5_000),
    },
    ("refcoco+", "unc"): {
        "train": Counts(16_992, 42_278, 120_191),
        "val": Counts(1_500, 3_805, 10_758),
        "testA": Counts(750, 1_975, 5_726),
        "testB": Counts(750, 1_798, 4_889),
    },
    ("refcocog", "umd"): {
        "train": Counts(21_899, 42_226, 80_512),
        "val": Counts(1_300, 2_573, 4_896),
        "test": Counts(2_600, 5_023, 9_602),
    },
    ("refcocog", "google"): {
        "train": Counts(24_698, 44_822, 85_474),
        "val": Counts(4_650, 5_000, 9_536),
    },
    ("refclef", "unc"): {
        "val": Counts(2_000),
        "testA": Counts(485),
        "testB": Counts(490),
        "testC": Counts(465),
    },
}
# Counted on a third party's copy that may group combined labels (testAB) otherwise: a difference is
# worth a remark and proves nothing.
UNSURE = {("refclef", "unc")}

# Split by object: one picture may lie in several splits, one object may not.
SPLIT_BY_OBJECT: dict[tuple[str, str], str] = {
    ("refcocog", "google"): (
        "the google split of RefCOCOg is by object, so train and val share pictures by design; its "
        "train also holds pictures of the umd val and test. Score on umd, and do not train on "
        "google for it"
    ),
    ("refcoco", "google"): (
        "the google split of RefCOCO is by object, so its splits share pictures by design; unc is "
        "the one that keeps pictures apart"
    ),
}

# In the ref files and in no archive that people have; nothing can be done about them.
NEVER_PUBLISHED = {"refclef": frozenset({"19579.jpg", "17975.jpg", "19575.jpg"})}
NEVER = "whose pictures are known to be in no published archive"


def path_of(refer: REFER, image_id: Id) -> Path | None:
    """`REFER.image_path`, and None for a picture that is missing because it was never published."""
    try:
        return refer.image_path(image_id)
    except MissingDataError:
        names = NEVER_PUBLISHED.get(refer.dataset, frozenset())
        if refer.Imgs[image_id]["file_name"] in names:
            return None
        raise
