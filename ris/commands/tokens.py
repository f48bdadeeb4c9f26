"""Count the tokens of a data set's sentences and recommend a token length."""

from __future__ import annotations

import argparse
from collections import Counter

LENGTHS = (16, 20, 24, 32, 40, 64, 77)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dataset", help="refcoco, refcoco+, refcocog, refclef, grefcoco, refshapes ..."
    )
    parser.add_argument("--splitBy", help="default: the data set's own")
    parser.add_argument("--refer_data_root", default="refer/data")
    parser.add_argument("--text_field", default="sent", choices=("sent", "raw"))


def run(arguments: argparse.Namespace) -> None:
    from ris.engine.data import open_one

    refer = open_one(arguments.refer_data_root, arguments.dataset, arguments.splitBy)
    per_split = count(refer, arguments.text_field)
    print(report(per_split))


def count(refer: object, text_field: str) -> dict[str, Counter[int]]:
    """split -> {number of tokens, begin and end included: number of sentences}."""
    from vpd.text import clip_tokenizer, token_counts

    tokenizer = clip_tokenizer()
    per_split: dict[str, Counter[int]] = {}
    sentences: dict[str, list[str]] = {}
    for ref in refer.Refs.values():  # type: ignore[attr-defined]
        sentences.setdefault(ref["split"], []).extend(s[text_field] for s in ref["sentences"])
    for split, texts in sentences.items():
        per_split[split] = Counter(token_counts(tokenizer, texts))
    return per_split


def recommend(per_split: dict[str, Counter[int]]) -> int:
    """The shortest of `LENGTHS` that cuts at most one sentence in a thousand of every split."""
    for length in LENGTHS:
        if all(_cut(counts, length) <= counts.total() / 1000 for counts in per_split.values()):
            return length
    return LENGTHS[-1]


def report(per_split: dict[str, Counter[int]]) -> str:
    """Histogram per split, sentences that each length would cut, and the recommended length."""
    lines = []
    for split, counts in per_split.items():
        if not counts:
            lines.append(f"{split}: no sentences")
            continue
        lines.append(f"{split}: {counts.total()} sentences, longest {max(counts)} tokens")
        peak = max(counts.values())
        for tokens in sorted(counts):
            bar = "#" * max(1, round(40 * counts[tokens] / peak))
            lines.append(f"  {tokens:4d} {counts[tokens]:7d} {bar}")
    lines.append("sentences cut at each token length:")
    lines.append(f"  {'split':10s}" + "".join(f"{length:>9d}" for length in LENGTHS))
    for split, counts in per_split.items():
        cells = "".join(f"{_cut(counts, length):9d}" for length in LENGTHS)
        lines.append(f"  {split:10s}{cells}")
    lines.append(f"recommended: --token_length {recommend(per_split)}")
    return "\n".join(lines)


def _cut(counts: Counter[int], length: int) -> int:
    return sum(number for tokens, number in counts.items() if tokens > length)
