"""Score saved records under another protocol, without the model."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("records", help="records_<split>.jsonl of a train or test run, or the "
                        "<dataset>_<split>_detailed_results.json of a generalized one")  # fmt: skip
    parser.add_argument("--protocol", default="vpd", help="vpd, lavt, cris (default: %(default)s)")
    parser.add_argument("--refer_data_root", help="with kept masks: score at native size")
    parser.add_argument("--dataset", default="refcoco")
    parser.add_argument("--splitBy")
    parser.add_argument("--nt-rule", choices=("head", "pixels"), default="head",
                        help="generalized: who says that nothing is there")  # fmt: skip
    parser.add_argument("--nt-pixels", type=int, default=50, help="a mask of fewer pixels says so")


def run(arguments: argparse.Namespace) -> None:
    if arguments.records.endswith("_detailed_results.json"):
        from refer.evaluation import gres
        from refer.evaluation.gres_table import gres_table

        protocol = gres.GresProtocol(arguments.nt_rule, arguments.nt_pixels)
        print(gres_table(gres.load(arguments.records, protocol), "all"))
        return
    from refer import REFER
    from refer.evaluation import score_file, table

    refer = None
    if arguments.refer_data_root:
        refer = REFER(arguments.refer_data_root, arguments.dataset, arguments.splitBy)
    scores = score_file(arguments.records, arguments.protocol, refer=refer)
    print(table([(arguments.protocol, scores)]))
    print(f"protocol: {scores['protocol']}")
