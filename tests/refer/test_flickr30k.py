"""Flickr30k Entities: marked sentences, annotations, hostile XML, and the way to common records."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refer.errors import DataFileError, MissingDataError, UnknownNameError
from refer.readers.flickr30k import (
    flickr30k_phrases,
    load_annotations,
    parse_caption,
    split_lists,
)
from refer.readers.phrases import load_phrases, save_phrases
from refer.readers.safe_xml import parse_xml

LINE = (
    "[/EN#11/people Two men] wave at [/EN#12/bodyparts/people a dog 's tail] near "
    "[/EN#13/scene a park] in [/EN#0/notvisual the background] ."
)
BARE = "Two men wave at a dog 's tail near a park in the background ."


def thing(names: list[str], box: Any = None, **flags: int) -> str:
    sides = "".join(
        f"<{side}>{value}</{side}>"
        for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box or (), strict=False)
    )
    inner = "".join(f"<name>{name}</name>" for name in names)
    inner += f"<bndbox>{sides}</bndbox>" if box else ""
    inner += "".join(f"<{name}>{value}</{name}>" for name, value in flags.items())
    return f"<object>{inner}</object>"


def xml(*objects: str, width: Any = 100, height: Any = 80, before: str = "") -> str:
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"{before}<annotation>{size}{''.join(objects)}</annotation>"


THINGS = (
    thing(["11"], (1, 1, 21, 41)),
    thing(["11", "12"], (50, 10, 120, 60)),  # of two chains, and beyond the right edge
    thing(["12"], (30, 30, 30, 40)),  # no width
    thing(["13"], scene=1, nobndbox=1),
    thing(["14"], nobndbox=1, scene=0),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Sentences", "Annotations"):
        (tmp_path / name).mkdir()
    for split, image_id in (("train", "7"), ("val", "8"), ("test", "9")):
        (tmp_path / f"{split}.txt").write_text(f"{image_id}\n")
        text = f"{LINE}\n\n[/EN#99/other Fog] .\nNo mark .\n"
        (tmp_path / "Sentences" / f"{image_id}.txt").write_text(text)
        (tmp_path / "Annotations" / f"{image_id}.xml").write_text(xml(*THINGS))
    return tmp_path


def test_a_caption_and_its_spans():
    caption, phrases = parse_caption(LINE)
    assert caption == BARE
    assert [(caption[p.start : p.end], p.chain, p.types) for p in phrases] == [
        ("Two men", "11", ("people",)),
        ("a dog 's tail", "12", ("bodyparts", "people")),
        ("a park", "13", ("scene",)),
        ("the background", "0", ("notvisual",)),
    ]


WORDS = st.text(
    st.characters(blacklist_characters="[]", blacklist_categories=("Z", "C")), min_size=1
)


@given(st.lists(st.tuples(st.booleans(), st.lists(WORDS, min_size=1, max_size=4)), max_size=8))
def test_every_span_gives_back_its_words(chunks):
    line = " ".join(
        f"[/EN#{i + 1}/other {' '.join(words)}]" if marked else " ".join(words)
        for i, (marked, words) in enumerate(chunks)
    )
    caption, phrases = parse_caption(line)
    assert caption == " ".join(word for _, words in chunks for word in words)
    assert [(p.chain, caption[p.start : p.end]) for p in phrases] == [
        (str(i + 1), " ".join(words)) for i, (marked, words) in enumerate(chunks) if marked
    ]


def test_brackets_outside_of_marks_are_words():
    assert parse_caption("a [ sign ] says [no]") == ("a [ sign ] says [no]", [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[/EN#1/people a man", "chain 1 has no end"),
        ("[/EN#1/people a [/EN#2/people man]]", "within one"),
        ("[/EN#x/people a man]", "not .*<chain>"),
        ("[/EN#1 a man]", "not .*<chain>"),
        ("[/EN#1/people ]", "no words"),
        ("\ufeff[/EN#1/people a man]", "does not begin a word"),
        ("[/EN#1/people a man],", "has no end"),
    ],
)
def test_damaged_marks(folder, line, message):
    with pytest.raises(ValueError, match=message):
        parse_caption(line)
    (folder / "Sentences" / "8.txt").write_text(f"{LINE}\n{line}\n")
    with pytest.raises(DataFileError, match=rf"8\.txt, line 2: .*{message}"):
        list(flickr30k_phrases(folder))


@pytest.mark.parametrize(("offset", "first"), [(-1, (0, 0, 20, 40)), (0, (1, 1, 21, 41))])
def test_the_offset_of_the_two_published_parsers(folder, offset, first):
    found = load_annotations(folder / "Annotations/8.xml", offset)
    assert found.boxes["11"][0] == first
    assert len(found.boxes["11"]) == len(found.boxes["12"]) == 2
    assert (found.scenes, found.unboxed) == ({"13"}, {"13", "14"})
    with pytest.raises(UnknownNameError, match="want -1 or 0"):
        load_annotations(folder / "Annotations/8.xml", 1)  # type: ignore[arg-type]


def test_records(folder):
    notes: Counter[str] = Counter()
    records = list(flickr30k_phrases(folder, ["val"], notes=notes))
    assert [record.id for record in records] == [f"flickr30k/8/{n}" for n in (0, 2, 3)]
    first = records[0]
    assert (first.split, first.width, first.height, first.caption) == ("val", 100, 80, BARE)
    men, arm, park, background = first.phrases
    assert men.boxes == ((0, 0, 20, 40), (49, 9, 100, 59))
    assert arm.boxes == ((49, 9, 100, 59),)
    assert park.boxes == background.boxes == ()
    assert first.scored() == [("flickr30k/8/0", 0), ("flickr30k/8/0", 1)]
    assert notes == {
        "boxes cut at an edge": 2,
        "empty boxes dropped": 1,
        "phrases without box: scene": 1,
        "phrases without box: not visual": 1,
        "phrases without box: not annotated": 1,
        "empty captions left out": 1,
    }


def test_what_is_not_visual_has_no_box_whatever_the_annotations_say(folder):
    boxed = thing(["0", "11"], (1, 1, 21, 41))
    (folder / "Annotations" / "8.xml").write_text(xml(boxed))
    men, *_, background = next(iter(flickr30k_phrases(folder, ["val"]))).phrases
    assert (men.boxes, background.chain, background.boxes) == (((0, 0, 20, 40),), "0", ())


def test_the_common_format_takes_all_of_it(folder, tmp_path):
    records = list(flickr30k_phrases(folder))
    save_phrases(tmp_path / "p", records, {})
    assert load_phrases(tmp_path / "p").records == records
    assert {record.split for record in records} == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (xml(width="x"), "<size/width> is 'x'"),
        (xml(thing([], (1, 1, 2, 2))), "an object without name"),
        (xml(thing(["1"], (1, 1, "nan", 2))), "<xmax> is 'nan'"),
        (xml(thing(["1"], (1, 1))), "<xmax> is ''"),
        (xml(thing(["1"], scene=7)), "<scene> is '7'"),
        (xml(width="1" * 400), "want a whole number of pixels"),
        ("<annotation>", "no XML"),
        ("", "no XML"),
        ("\x00\x01", "no XML"),
    ],
)
def test_damaged_annotations(folder, content, message):
    (folder / "Annotations/8.xml").write_text(content)
    with pytest.raises(DataFileError, match=rf"8\.xml: .*{message}"):
        list(flickr30k_phrases(folder))


LAUGHS = (
    '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>'
)


@pytest.mark.parametrize(
    "before",
    [
        LAUGHS,
        '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE a SYSTEM "http://example.org/a.dtd">',
        "<!DOCTYPE annotation>",
    ],
)
def test_hostile_xml_is_refused(tmp_path, before):
    path = tmp_path / "a.xml"
    path.write_text(
        xml(thing(["&c;" if "ENTITY c" in before else "1"], (1, 1, 2, 2)), before=before)
    )
    with pytest.raises(DataFileError, match=r"a\.xml, line 1: refused"):
        parse_xml(path)


def test_deep_nesting_does_no_harm(tmp_path):
    (tmp_path / "a.xml").write_text("<a>" * 500_000 + "</a>" * 500_000)
    with pytest.raises(DataFileError, match="<size/width> is ''"):
        load_annotations(tmp_path / "a.xml")


def test_a_huge_file_and_no_file(tmp_path):
    with (tmp_path / "a.xml").open("wb") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(DataFileError, match="has 17825792 bytes"):
        parse_xml(tmp_path / "a.xml")
    with pytest.raises(MissingDataError, match="no annotation file"):
        parse_xml(tmp_path / "b.xml")


def test_a_picture_of_two_splits_is_refused(folder):
    (folder / "test.txt").write_text("9\n7\n")
    with pytest.raises(DataFileError, match=r"test\.txt: picture 7 is listed in train already"):
        split_lists(folder)
    (folder / "test.txt").write_text("../../9\n")
    with pytest.raises(DataFileError, match="is no picture id"):
        split_lists(folder)
    (folder / "test.txt").write_bytes(b"9\xff")
    with pytest.raises(DataFileError, match=r"test\.txt: not UTF-8"):
        split_lists(folder)
    with pytest.raises(DataFileError, match="too long"):
        load_annotations(folder / f"{'7' * 5000}.xml")
    (folder / "test.txt").unlink()
    with pytest.raises(MissingDataError, match="comes with Flickr30k Entities"):
        split_lists(folder)


def test_real_lists_and_captions(shared):
    """The published counts, and every real caption at hand."""
    folder = shared / "data/flickr30k_sample"
    if not folder.is_dir():
        pytest.skip(f"no Flickr30k sample at {folder}")
    lists = split_lists(folder)
    assert {split: len(ids) for split, ids in lists.items()} == {
        "train": 29783,
        "val": 1000,
        "test": 1000,
    }
    text = (folder / "data_samples.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if "[/EN#" in line]
    assert len(lines) >= 40
    for line in lines:
        caption, phrases = parse_caption(line)
        assert len(phrases) == line.count("[/EN#")
        assert "EN#" not in caption
        for phrase in phrases:
            words = caption[phrase.start : phrase.end]
            assert f"[/EN#{phrase.chain}/{'/'.join(phrase.types)} {words}]" in line
