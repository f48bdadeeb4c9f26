"""A run's settings: a config file, with command-line options laid over it, checked before work."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from refer.catalog import default_token_length, find_dataset, parts_of
from refer.evaluation import PROTOCOLS, find_grounding_protocol
from ris.engine import ranges
from ris.errors import OptionError
from ris.sizes import image_size, is_whole
from vpd.zoo import named

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Backbones that are trained by the recipe of another one, with nothing but the name changed.
RECIPE_OF = {"sd21": "sd15"}
SECTIONS = ("model", "data", "optim", "schedule", "survival")
# What an entry may be beside True or False.
WORDS = {"model.backbone.checkpointing": ("light",)}


def find_config(task: str, dataset: str, backbone: str, size: int | tuple[int, int] | None) -> Path:
    """configs/<task>/<dataset>_<backbone>_<size>.py; without a size, the only or smallest one.

    A mixture of data sets takes the config of its first; grec takes that of gres; rec and phrase
    take one another's where they have none of their own. sd21 has none: it takes those of sd15, and
    the caller lays its name over them.

    Raises:
        OptionError: there is no such config; the message lists those of the data set.
    """
    backbone = RECIPE_OF.get(backbone, backbone)
    asked, task = task, "gres" if task == "grec" else task
    dataset = parts_of(dataset)[0]
    folder, sizes = CONFIGS / task, _sizes(task, dataset, backbone)
    if not sizes and task in ("rec", "phrase"):
        sizes = _sizes("phrase" if task == "rec" else "rec", dataset, backbone)
    if isinstance(size, int) and size in sizes:
        return sizes[size]
    if sizes:  # another size is one changed number: the option is laid over the config
        return sizes[min(sizes)]
    if not CONFIGS.is_dir():
        raise OptionError(
            f"there are no configs at {CONFIGS}: this package runs from its repository; install it "
            "there with pip install -e ."
        )
    fitting = find_dataset(dataset).tasks
    if asked not in fitting and not {asked, *fitting} <= {"rec", "phrase"}:
        raise OptionError(f"{dataset} is for task {' or '.join(fitting)}, not {asked}")
    known = sorted(path.stem for path in folder.glob("*.py"))
    raise OptionError(
        f"no config {task}/{dataset}_{backbone}_*.py; there are {', '.join(known) or 'none'}; "
        "name another --backbone or data set, or pass --config FILE"
    )


def _sizes(task: str, dataset: str, backbone: str) -> dict[int, Path]:
    found = (CONFIGS / task).glob(f"{dataset}_{backbone}_*.py")
    return {int(path.stem.rsplit("_", 1)[1]): path for path in found}


def default_task(dataset: str) -> str:
    """'gres' for data sets with several targets or none, 'phrase' for captions with phrases, else
    'res'. Raises UnknownNameError."""
    return find_dataset(parts_of(dataset)[0]).tasks[0]


def read(path: str | Path) -> Config:
    """A config file as it stands: a program in Python, which runs when it is read.

    Raises OptionError where there is none, or it cannot be run, or lacks what every run needs.
    """
    path = Path(path)
    if not path.is_file():
        raise OptionError(f"config {path} does not exist")
    if path.suffix != ".py":  # mmengine would also read YAML, in which any tag may run code
        raise OptionError(f"config {path} is no Python file; want a name that ends in .py")
    try:
        config = Config.fromfile(str(path))
    except Exception as error:  # whatever the file's own statements raise
        raise OptionError(
            f"config {path} cannot be read: {type(error).__name__}: {error}"
        ) from error
    odd = [name for name in SECTIONS if not isinstance(config.get(name), dict)]
    if odd:
        raise OptionError(
            f"config {path} lacks {', '.join(odd)} (each a dict); begin it with "
            "_base_ = [...], a file of configs/_base_, as those in configs/ do"
        )
    return config


def chosen_in(
    path: str | Path,
    dataset: str | None,
    backbone: str | None,
    overrides: Mapping[str, Any],
) -> dict[str, Any]:
    """The overrides that put a data set and a backbone in place of those of config file `path`;
    None leaves the file's.

    The file's splitBy, token length and set to validate on are of its own data set: with another
    one they go back to that one's defaults. Everything else of the file stays.

    Raises:
        OptionError: the file names weights, and another backbone than it names is asked for.
        vpd.ConfigError, refer.UnknownNameError: there is no such backbone or data set.
    """
    config = read(path).to_dict()
    data, own = config["data"], config["model"]["backbone"]
    dataset = overrides.get("data.dataset", dataset)
    found: dict[str, Any] = {}
    if dataset is not None:
        found["data.dataset"] = dataset
        # A mixture is validated on its first part, and takes its splitBy.
        if parts_of(dataset)[0] != parts_of(data["dataset"])[0]:
            of_the_set = {"split_by", "token_length", "val_dataset"}
            found |= {f"data.{name}": None for name in sorted(of_the_set & set(data))}
    if backbone is not None and named(backbone).name != own["name"]:
        found["model.backbone.name"] = backbone
        source = own["source"]
        if source not in (None, "random") and "model.backbone.source" not in overrides:
            raise OptionError(
                f"--backbone {backbone} contradicts {path}, which takes the weights {source!r} of "
                f"{own['name']}; give --weights too, or leave out --backbone"
            )
    return found


def load(path: str | Path, overrides: dict[str, Any] | None = None) -> Config:
    """Read a config, lay `overrides` ({'data.image_size': 256}) over it, check and complete it.

    Raises:
        OptionError: a missing file, an unknown entry, or a value outside its range.
    """
    config = read(path)
    known = _flat(config.to_dict())
    for name, value in (overrides or {}).items():
        # Heads have entries of their own, and a config needs to name only some.
        if name not in known and not name.startswith(("model.head.", "model.loss_weights.")):
            raise OptionError(_unknown(name, sorted(known), path))
        if name == "data.image_size":
            image_size(value)
        else:
            _check_kind(name, value, known.get(name))
    if "model.head.answers" in (overrides or {}) and "grounding" not in config:
        raise OptionError(
            f"--answers (model.head.answers) is for tasks rec and phrase, and {path} is of task "
            f"{config.task}; pass --task rec"
        )
    laid_over = dict(overrides or {})
    head = laid_over.get("model.head")
    if isinstance(head, dict) and "type" in head:
        # Another head has other arguments: it takes over none of the config's.
        laid_over["model.head"] = {"_delete_": True, **head}
    config.merge_from_dict(laid_over)
    data = config.data
    if not isinstance(data.dataset, str):
        raise OptionError(f"data.dataset is {data.dataset!r}; want the name of a data set")
    if data.token_length is None:
        data.token_length = default_token_length(data.dataset)
    first = parts_of(data.dataset)[0]
    if data.split_by and find_dataset(first).phrases is not None:
        raise OptionError(
            f"splitBy is {data.split_by!r}, but {first} is a file of phrases and has its splits in "
            "it; leave --splitBy (data.split_by) out"
        )
    data.image_size = image_size(data.image_size)
    if not is_whole(data.token_length) or not 3 <= data.token_length <= 77:
        raise OptionError(f"token length {data.token_length!r} is outside 3 to 77 (CLIP's limit)")
    if config.get("init") is not None and not Path(str(config.init)).is_dir():
        raise OptionError(
            f"init is {config.init!r}; want the folder of a trained system (model_best_...)"
        )
    if "grounding" in config:
        find_grounding_protocol(config.grounding.protocol)
    if config.protocol not in tuple(PROTOCOLS):
        raise OptionError(f"protocol {config.protocol!r} is unknown; choose {', '.join(PROTOCOLS)}")
    ranges.check(_flat(config.to_dict()))
    return config


def _unknown(name: str, known: list[str], path: str | Path) -> str:
    """What to say of an entry that is not there: the nearest names, then those beside it."""
    close = difflib.get_close_matches(name, known, n=3)
    parent = max(
        (one for one in known if name.startswith(f"{one}.")), key=len, default=""
    )  # the deepest part of the name that exists
    beside = [
        one
        for one in known
        if one.startswith(f"{parent}." if parent else "") and "." not in one[len(parent) + 1 :]
    ]
    meant = f"; did you mean {' or '.join(close)}?" if close else ";"
    return f"config entry {name!r} is unknown{meant} {path} has {', '.join(beside)}"


def _check_kind(name: str, value: Any, current: Any) -> None:
    """Raise OptionError for a value of another kind than the config has: no number, True or False
    where it has one ('false' would count as true), no string, or no section. Other values would
    fail only where they are used."""
    words = WORDS.get(name, ())
    if value in words:
        return
    without = value is None and name not in (*SECTIONS, "model.backbone")
    if isinstance(current, dict) and not isinstance(value, dict) and not without:
        inside = f" of {', '.join(current)}; set one of these, or" if current else "; set"
        raise OptionError(
            f"config entry {name} is a section{inside} the whole by a dict, got {value!r}"
        )
    if isinstance(current, str) and not isinstance(value, str | None):
        raise OptionError(
            f"config entry {name} wants a string, got {value!r}; the config has {current!r}"
        )
    if isinstance(value, (str, list, tuple, dict)) and isinstance(current, (int, float)):
        wanted = "True or False" if isinstance(current, bool) else "a number"
        wanted = ", ".join([*words, wanted])
        raise OptionError(
            f"config entry {name} wants {wanted}, got {value!r}; the config has {current}"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat[prefix + name] = value
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
    return flat
