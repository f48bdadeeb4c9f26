"""Score saved records under another protocol, without the model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Literal

# Options that only some files know, by their name in argparse.
OF_MASKS = {"refer_data_root": "--refer_data_root", "dataset": "--dataset", "splitBy": "--splitBy"}
OF_GENERAL = {"nt_rule": "--nt-rule", "nt_pixels": "--nt-pixels"}
OF_PROTOCOL = {"protocol": "--protocol"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("records", help="records_<split>.jsonl of a train or test run, or the "
                        "<dataset>_<split>_detailed_results.json of a generalized one, or "
                        "boxes_<split>.jsonl of one that grounds")  # fmt: skip
    parser.add_argument("--protocol", help="vpd, lavt, cris, lavt_val, cris_val (default: vpd); "
                        "of boxes reftr, "
                        "transvg, mdetr_any, mdetr_merged (default: the file's own)")  # fmt: skip
    parser.add_argument("--refer_data_root", help="with kept masks: score at native size")
    parser.add_argument("--dataset", help="with it, for records that do not say what data set "
                        "they are of")  # fmt: skip
    parser.add_argument("--splitBy", help="the same, of the splitBy")
    parser.add_argument("--nt-rule", choices=("head", "pixels"),
                        help="generalized: who says that nothing is there (head)")  # fmt: skip
    parser.add_argument("--nt-pixels", type=int, help="a mask of fewer pixels says so, with "
                        "--nt-rule pixels (default: 50)")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    path = Path(arguments.records)
    # The generalized result files are of the published form, one JSON list without a header.
    said = _format(path)
    if path.suffix == ".json" and said is None:
        _refuse(arguments, "a generalized result file", {**OF_MASKS, **OF_PROTOCOL})
        _general(arguments)
    elif said == "grounding-predictions":
        _refuse(arguments, "a file of boxes", {**OF_MASKS, **OF_GENERAL})
        _boxes(arguments)
    else:
        _refuse(arguments, "a file of masks' counts", OF_GENERAL)
        _masks(arguments)


def _format(path: Path) -> str | None:
    """What the first line says the file is; None for nothing, which its reader reports."""
    if not path.is_file():  # opening a pipe would wait
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return str(json.loads(file.readline())["format"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _refuse(arguments: argparse.Namespace, what: str, options: dict[str, str]) -> None:
    from ris.errors import OptionError

    given = [option for name, option in options.items() if getattr(arguments, name) is not None]
    if given:
        raise OptionError(f"{arguments.records} is {what}, which {', '.join(given)} is not for")


def _general(arguments: argparse.Namespace) -> None:
    from refer.evaluation import gres, gres_records
    from refer.evaluation.gres_table import gres_table
    from ris.errors import OptionError

    rule: Literal["head", "pixels"] = arguments.nt_rule or "head"
    if arguments.nt_pixels is not None and rule != "pixels":
        raise OptionError("--nt-pixels is for --nt-rule pixels")
    pixels = 50 if arguments.nt_pixels is None else arguments.nt_pixels
    if pixels < 0:
        raise OptionError(f"--nt-pixels is {pixels}; want 0 or more")
    print(gres_table(gres_records.load(arguments.records, gres.GresProtocol(rule, pixels)), "all"))


def _boxes(arguments: argparse.Namespace) -> None:
    from refer.evaluation import (
        find_grounding_protocol,
        grounding_table,
        load_predictions,
        scored_line,
    )

    wanted = arguments.protocol and find_grounding_protocol(arguments.protocol)
    boxes, header = load_predictions(arguments.records, wanted)
    scores = boxes.compute()
    split = str(header.get("split", "all"))
    print(grounding_table([(split, scores)], boxes.protocol, by_type=True))
    print(scored_line(header, scores["n_items"]))


def _masks(arguments: argparse.Namespace) -> None:
    from refer.evaluation import find_protocol, load_records, rescore, scored_line, table
    from refer.evaluation.recorded import chosen_data, open_recorded

    protocol = arguments.protocol or "vpd"
    wanted, file = find_protocol(protocol), load_records(arguments.records)
    named, refer = (arguments.dataset, arguments.splitBy), None
    chosen_data(arguments.records, file, *named)  # refuses those that contradict the records
    if arguments.refer_data_root:
        refer = open_recorded(arguments.records, file, arguments.refer_data_root, *named)
    scores = rescore(file.records, wanted, file.protocol, refer)
    print(table([(protocol, scores)]))
    print(f"protocol: {scores['protocol']}")
    print(scored_line(file.header, scores["n_items"]))
