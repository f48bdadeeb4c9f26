"""`ris test --report`: one page that needs nothing else, and numbers as the records have them."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refer import REFER
from refer.evaluation import ItemRecord, ResEvaluator, ResProtocol, load_records, save_records
from ris.cli import main
from ris.errors import CheckpointError
from ris.page import write
from ris.page.items import Item, by_length, by_share, extremes, join
from ris.page.pictures import data_uri

PROTOCOL = ResProtocol(resolution="64x64")
BEST = "best/model_best_refshapes"


def item(ref: int, iou: float, text: str = "a b", share: float = 0.5, area: int = 10) -> Item:
    return Item(ItemRecord(ref, ref, 1, 0, 0, area, 0, area), iou, text, share)


def test_groups_by_hand():
    items = [item(1, 0.2, "dog"), item(2, 0.4, " ".join("abcd")), item(3, 0.6, " ".join("abcde")),
             item(4, 1.0, " ".join("abcdefghijkl"))]  # fmt: skip
    groups = [(g.name, g.count, g.mean) for g in by_length(items)]
    assert groups == [("1", 1, 0.2), ("4-5", 2, 0.5), ("11+", 1, 1.0)]
    items = [item(1, 0.2, share=0.005), item(2, 0.4, share=0.1), item(3, 0.6, share=0.9)]
    assert [g.name for g in by_share(items)] == ["0-1 %", "3-10 %", "40+ %"]


def test_extremes_do_not_overlap_and_have_an_order():
    items = [item(n, 0.1 * n) for n in range(7)]
    worst, best = extremes(items, 20)
    assert [i.record.ref_id for i in worst] == [0, 1, 2]
    assert [i.record.ref_id for i in best] == [6, 5, 4]
    missed = [item(1, 0.0, area=5), item(2, 0.0, area=50), item(3, 1.0)]
    assert extremes(missed, 1)[0][0].record.ref_id == 2


def evaluated(refer: REFER, split: str = "val") -> ResEvaluator:
    """The left half of every picture predicted, masks kept."""
    from refer.datasets import PictureDataset

    evaluator = ResEvaluator(PROTOCOL)
    pred = np.zeros((64, 64), bool)
    pred[:, :32] = True
    for one in PictureDataset(refer, split, 64, overlap="drop"):
        for row, sent in zip(one["ref_of_text"].tolist(), one["sent_ids"], strict=True):
            evaluator.update(pred, one["masks"][row], one["ref_ids"][row], sent, one["image_id"],
                             keep_masks=True)  # fmt: skip
    return evaluator


def test_items_are_joined_with_the_data(shapes_root):
    refer = REFER(shapes_root, "refshapes")
    records = evaluated(refer).records
    for one in join(records, PROTOCOL, refer):
        assert one.text == refer.Sents[one.record.sent_id]["sent"]
        mask = refer.getMask(refer.Refs[one.record.ref_id])["mask"]
        assert one.share == pytest.approx(mask.mean(), abs=0.02)
        assert one.iou == one.record.intersection / one.record.union
    with pytest.raises(CheckpointError, match="not in"):
        join([records[0]._replace(sent_id=10**6)], PROTOCOL, refer)


def test_a_picture_shows_mask_and_truth(shapes_root):
    refer = REFER(shapes_root, "refshapes")
    (one, *_) = join(evaluated(refer).records, PROTOCOL, refer)
    uri = data_uri(one, refer, PROTOCOL)
    kind, content = uri.split(",")
    assert kind == "data:image/jpeg;base64"
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"), float)
    picture = np.asarray(Image.open(refer.image_path(one.record.image_id)).convert("RGB"), float)
    side = drawn.shape[1]
    # The right half, which no mask covers, is dimmed; the left one is not.
    rows = slice(side // 4, side // 2)
    left, right = drawn[rows, : side // 3].mean(), drawn[rows, -side // 3 :].mean()
    assert left - right > 0.2 * picture.mean()
    with pytest.raises(CheckpointError, match="keep-masks"):
        data_uri(one._replace(record=one.record._replace(mask=None)), refer, PROTOCOL)


class Reader(HTMLParser):
    """Tags and addresses of a page; every opened element must be closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attributes if k in ("src", "href", "xlink:href")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def metrics(evaluator: ResEvaluator) -> dict[str, object]:
    scores = evaluator.compute()
    return {
        "dataset": "refshapes", "split": "val", "protocol": PROTOCOL.describe(),
        "scores": {k: v for k, v in scores.items() if isinstance(v, float)},
        "counts": {"n_items": scores["n_items"]},
    }  # fmt: skip


def test_the_page_stands_alone_and_says_everything(shapes_root, tmp_path):
    refer = REFER(shapes_root, "refshapes")
    evaluator = evaluated(refer)
    records = tmp_path / "records_val.jsonl"
    save_records(records, evaluator.records, {}, PROTOCOL)
    hostile = evaluator.records[0].sent_id
    refer.Sents[hostile]["sent"] = "<script>alert(1)</script>"
    for ref in refer.Refs.values():
        for sentence in ref["sentences"]:
            if sentence["sent_id"] == hostile:
                sentence["sent"] = "<script>alert(1)</script>"
    write(tmp_path / "page.html", records, metrics(evaluator), refer)
    text = (tmp_path / "page.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    assert all(link.startswith(("data:image/jpeg", "#")) for link in reader.links)
    assert not re.findall(r"url\((?!#)", text)
    assert not re.search(r"@import|<script|<link", text)
    assert reader.tags.count("svg") == 4
    count = min(20, len(evaluator) // 2)
    assert reader.tags.count("img") == 2 * count
    for name, value in metrics(evaluator)["scores"].items():
        assert f"<th>{name}</th>" in text
        assert f"<td>{value:.2f}</td>" in text
    assert "threshold_operator" in text
    assert len(text) < 5e6
    # Ids of one figure must not be those of another.
    ids = re.findall(r'<clipPath id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert not list(tmp_path.glob("*.part"))


def test_the_test_command_writes_it(trained, shapes_root, tmp_path, capsys):
    arguments = [
        "test", "--dataset", "refshapes", "--backbone", "tiny", "--device", "cpu", "--checkpoint",
        str(trained / BEST), "--refer_data_root", str(shapes_root), "--workers", "0",
        "--logdir", str(tmp_path), "--report",
    ]  # fmt: skip
    assert main(arguments) == 0
    page = tmp_path / "report_val.html"
    assert f"report: {page}" in capsys.readouterr().out
    assert page.read_text().count("<img") > 2
    assert all(r.mask for r in load_records(tmp_path / "records_val.jsonl").records)
    assert str(trained / BEST) in page.read_text()


def test_generalized_tasks_are_refused(tmp_path: Path, capsys):
    arguments = ["test", "--dataset", "grefshapes", "--backbone", "tiny", "--device", "cpu",
                 "--checkpoint", str(tmp_path), "--logdir", str(tmp_path), "--report"]  # fmt: skip
    assert main(arguments) == 2
    assert "--report is for task res, not gres" in capsys.readouterr().err
