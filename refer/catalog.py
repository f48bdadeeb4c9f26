"""The table of data sets: which splits each has, its defaults, and where its pictures may lie."""

from __future__ import annotations

from dataclasses import dataclass, field

from refer.errors import UnknownNameError

_COCO_FOLDERS = (
    "images/mscoco/images/train2014",  # REFER, LAVT, VPD
    "images/train2014",  # gRefCOCO, ReLA, CRIS
    "train2014",  # MDETR
    "refcoco/images/train2014",  # RefTR
    "images/mscoco/images/train2017",  # COCO 2017 holds the same pictures under shorter names
    "images/train2017",
    "train2017",
    "refcoco/images/train2017",
)
# The API of the originals and their data page spell this folder differently.
_IAPR_FOLDERS = (
    "images/saiapr_tc-12",
    "images/saiaprtc12",
    "saiapr_tc-12",
    "saiaprtc12",
)
_COCO_SOURCE = "the COCO train2014 pictures (cocodataset.org)"
_LETTERS = ("testA", "testB", "testC", "testAB", "testBC", "testAC")


@dataclass(frozen=True)
class DataSet:
    """One row of the table.

    `splits` maps each published splitBy to the split names that may be asked of it; other ref
    files found on disk may be opened too. `image_folders` are relative to the data root, in the
    order in which they are tried. `token_length` counts CLIP tokens and follows VPD's recipe.
    `general`: a ref may have several targets or none, and `G_REFER` reads it. `folder`: where its
    ref files lie below the data root, if not in one of its name. `phrases`: the set is one of
    captions with phrases and boxes, in this file below the data root.
    """

    name: str
    splits: dict[str, tuple[str, ...]]
    default_split_by: str
    token_length: int
    image_folders: tuple[str, ...] = field(repr=False)
    image_source: str = field(repr=False)
    cure: str = field(repr=False)
    general: bool = False
    folder: str | None = None
    phrases: str | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks it can be trained and scored for, the usual one first."""
        if self.phrases is not None:
            return ("phrase", "rec")
        return ("gres", "grec") if self.general else ("res", "rec")

    @property
    def coco_pictures(self) -> bool:
        """Whether the pictures are COCO's, whose file names follow from the image id."""
        return self.image_folders[: len(_COCO_FOLDERS)] == _COCO_FOLDERS


def _published(
    name: str,
    splits: dict[str, tuple[str, ...]],
    token_length: int,
    folders: tuple[str, ...],
    source: str,
) -> DataSet:
    """A row for one of the public data sets; the first splitBy is the default."""
    default = next(iter(splits))
    cure = (
        f"unpack {name}.zip of the REFER data sets (github.com/lichengunc/refer) so that "
        f"<data root>/{name}/ holds instances.json and the refs(<splitBy>).p files"
    )
    return DataSet(name, splits, default, token_length, folders, source, cure)


def _phrases(
    name: str,
    token_length: int,
    splits: tuple[str, ...],
    folders: tuple[str, ...],
    source: str,
    conversion: str,
) -> DataSet:
    """A row for captions with phrases in the common format."""
    file = f"phrases/{name}.jsonl"
    command = conversion.replace("OUT", f"<data root>/{file}")
    cure = f"convert it with: python tools/phrases_convert.py {command}"
    return DataSet(
        name, {"": splits}, "", token_length, folders, source, cure, folder="phrases", phrases=file
    )


_UNC = ("train", "val", "testA", "testB", "test")

DATASETS: dict[str, DataSet] = {
    row.name: row
    for row in (
        _published(
            "refclef",
            {"unc": ("train", "val", *_LETTERS, "test"), "berkeley": ("train", "val", "test")},
            40,
            _IAPR_FOLDERS,
            "the saiapr_tc-12 pictures",
        ),
        _published(
            "refcoco",
            {"unc": _UNC, "google": ("train", "val", "test")},
            40,
            _COCO_FOLDERS,
            _COCO_SOURCE,
        ),
        _published("refcoco+", {"unc": _UNC}, 40, _COCO_FOLDERS, _COCO_SOURCE),
        _published(
            "refcocog",
            {"umd": ("train", "val", "test"), "google": ("train", "val")},
            77,
            _COCO_FOLDERS,
            _COCO_SOURCE,
        ),
        DataSet(
            name="grefcoco",
            splits={"unc": ("train", "val", "testA", "testB")},
            default_split_by="unc",
            token_length=40,
            # The last is where RefShapes, which can take gRefCOCO's place, keeps its pictures.
            image_folders=(*_COCO_FOLDERS, "images/refshapes"),
            image_source=_COCO_SOURCE,
            cure=(
                "download grefs(unc).json and instances.json of gRefCOCO "
                "(github.com/henghuiding/gRefCOCO) into <data root>/grefcoco/"
            ),
            general=True,
        ),
        DataSet(
            name="grefshapes",
            splits={"unc": ("train", "val", "testA", "testB")},
            default_split_by="unc",
            token_length=16,
            image_folders=("images/refshapes",),
            image_source="the generated pictures",
            cure="generate it with: python -m refer.shapes <data root> --extras",
            general=True,
            folder="grefcoco",  # its layout, so that gRefCOCO's own tools read it too
        ),
        DataSet(
            name="refshapes",
            splits={"unc": _UNC},
            default_split_by="unc",
            token_length=16,
            image_folders=("images/refshapes",),
            image_source="the generated pictures",
            cure="generate it with: python -m refer.shapes <data root>",
        ),
        DataSet(
            name="own",
            splits={"own": ("train", "val", "test")},
            default_split_by="own",
            token_length=40,
            image_folders=("own/images", "images/own"),
            image_source="your own pictures",
            cure="make it with: ris import FILE.jsonl <data root> (docs/own_data.md)",
        ),
        DataSet(
            name="phraseshapes",
            splits={"": ("train", "val", "testA", "testB")},
            default_split_by="",
            token_length=40,
            image_folders=("images/refshapes",),
            image_source="the generated pictures",
            cure="generate it with: python -m refer.shapes <data root> --extras",
            folder="refshapes",
            phrases="refshapes/phrases.json",
        ),
        _phrases(
            "flickr30k",
            77,
            ("train", "val", "test"),
            ("flickr30k-images", "flickr30k/f30k_images", "flickr30k_images"),
            "the Flickr30k pictures",
            "flickr30k <folder of Flickr30k Entities> OUT",
        ),
        _phrases(
            "referit",
            40,
            ("train", "val", "trainval", "test"),
            (*_IAPR_FOLDERS, "referit/images"),
            "the IAPR TC-12 pictures",
            "referit <folder with the referit_*.json files> OUT",
        ),
        _phrases(
            "vg",
            40,
            ("train",),
            ("visualgenome", "vg"),
            "the folders VG_100K and VG_100K_2 of Visual Genome",
            "vg <folder of Visual Genome> OUT --exclude <data root>",
        ),
    )
}


def find_dataset(name: str) -> DataSet:
    """The row of data set `name`. Raises UnknownNameError, which lists the names there are."""
    try:
        return DATASETS[name]
    except (KeyError, TypeError):
        known = ", ".join(DATASETS)
        raise UnknownNameError(f"unknown data set {name!r}; known: {known}") from None


def parts_of(name: str) -> list[str]:
    """The data sets of a mixture: 'grefcoco+refcoco+' -> ['grefcoco', 'refcoco+'].

    Raises UnknownNameError when a part is none.
    """
    if name in DATASETS:
        return [name]
    for known in sorted(DATASETS, key=len, reverse=True):
        if name.startswith(f"{known}+") and len(name) > len(known) + 1:
            return [known, *parts_of(name[len(known) + 1 :])]
    find_dataset(name)  # says which names there are
    return []


def default_token_length(dataset: str) -> int:
    """Number of CLIP tokens a sentence is padded or cut to; the most that a part of a mixture
    wants. Raises UnknownNameError."""
    return max(find_dataset(name).token_length for name in parts_of(dataset))


def split_matches(wanted: str, label: str) -> bool:
    """Whether a ref labelled `label` belongs to the split `wanted`, by the rule of the classic API.

    RefCLEF labels a ref with several letters at once (`testAB`), hence a letter test for testA, B
    and C, a substring test for `test`, and equality for everything else.
    """
    if wanted in ("testA", "testB", "testC"):
        return wanted[-1] in label
    if wanted == "test":
        return "test" in label
    return wanted == label
