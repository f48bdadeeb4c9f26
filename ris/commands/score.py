"""Score saved records under another protocol, without the model."""

from __future__ import annotations

import argparse
from pathlib import Path


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
    parser.add_argument("--nt-rule", choices=("head", "pixels"), default="head",
                        help="generalized: who says that nothing is there")  # fmt: skip
    parser.add_argument("--nt-pixels", type=int, default=50, help="a mask of fewer pixels says so")


def run(arguments: argparse.Namespace) -> None:
    if arguments.records.endswith("_detailed_results.json"):
        from refer.evaluation import gres
        from refer.evaluation.gres_table import gres_table

        rule = gres.GresProtocol(arguments.nt_rule, arguments.nt_pixels)
        print(gres_table(gres.load(arguments.records, rule), "all"))
        return
    if Path(arguments.records).name.startswith("boxes_"):
        from refer.evaluation import (
            find_grounding_protocol,
            grounding_table,
            load_predictions,
        )

        wanted = arguments.protocol and find_grounding_protocol(arguments.protocol)
        boxes, header = load_predictions(arguments.records, wanted)
        split = str(header.get("split", "all"))
        print(grounding_table([(split, boxes.compute())], boxes.protocol, by_type=True))
        return
    from refer.evaluation import find_protocol, load_records, rescore, table
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
