"""Score saved records under another protocol, without the model."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("records", help="records_<split>.jsonl of a train or test run")
    parser.add_argument("--protocol", default="vpd", help="vpd, lavt, cris (default: %(default)s)")
    parser.add_argument("--refer_data_root", help="with kept masks: score at native size")
    parser.add_argument("--dataset", default="refcoco")
    parser.add_argument("--splitBy")


def run(arguments: argparse.Namespace) -> None:
    from refer import REFER
    from refer.evaluation import score_file, table

    refer = None
    if arguments.refer_data_root:
        refer = REFER(arguments.refer_data_root, arguments.dataset, arguments.splitBy)
    scores = score_file(arguments.records, arguments.protocol, refer=refer)
    print(table([(arguments.protocol, scores)]))
    print(f"protocol: {scores['protocol']}")
