"""Ref pickles: what is read, and that nothing else is."""

from __future__ import annotations

import copyreg
import os
import pickle
import struct

import pytest

from refer.errors import DataFileError, MissingDataError
from refer.readers.pickles import load_refs


class Runs:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_reads_every_protocol(tmp_path, records, protocol):
    refs = [records.ref(i, 100 + i, 1, "train") for i in range(3)]
    (tmp_path / "refs").write_bytes(pickle.dumps(refs, protocol=protocol))
    assert load_refs(tmp_path / "refs") == refs


def test_equal_tokens_are_one_object(tmp_path, records):
    refs = [records.ref(i, 100 + i, 1, "train") for i in range(2)]
    (tmp_path / "refs").write_bytes(pickle.dumps(refs, protocol=2))
    first, second = (ref["sentences"][0]["tokens"][0] for ref in load_refs(tmp_path / "refs"))
    assert first == "thing"
    assert first is second


def python2_string(text: bytes) -> bytes:
    """What Python 2 wrote for a byte string (the opcode BINSTRING)."""
    return b"T" + struct.pack("<i", len(text)) + text


@pytest.mark.parametrize(("written", "read"), [(b"cafe", "cafe"), (b"caf\xe9", "café")])
def test_reads_byte_strings_of_python_2(tmp_path, records, written, read):
    ref = records.ref(0, 100, 1, "train")
    ref["sentences"][0]["raw"] = "PLACEHOLDER"
    content = pickle.dumps([ref], protocol=2)
    placeholder = b"X" + struct.pack("<i", 11) + b"PLACEHOLDER"
    assert content.count(placeholder) == 1
    (tmp_path / "refs").write_bytes(content.replace(placeholder, python2_string(written)))
    assert load_refs(tmp_path / "refs")[0]["sentences"][0]["raw"] == read


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_refuses_programs_and_runs_nothing(tmp_path, records, protocol):
    made = tmp_path / "made"
    ref = records.ref(0, 100, 1, "train")
    ref["extra"] = Runs(made)
    (tmp_path / "refs").write_bytes(pickle.dumps([ref], protocol=protocol))
    with pytest.raises(DataFileError, match=rf"refs: refused.*{os.mkdir.__module__}\.mkdir"):
        load_refs(tmp_path / "refs")
    assert not made.exists()
    pickle.loads((tmp_path / "refs").read_bytes())
    assert made.exists()  # so the file was a real attack


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.",
        b"(ios\nsystem\nS'true'\no.",
        b"\x80\x02\x82\x07.",  # an extension code
    ],
)
def test_refuses_every_way_to_name_a_global(tmp_path, content):
    copyreg.add_extension("os", "system", 7)
    try:
        (tmp_path / "refs").write_bytes(content)
        with pytest.raises(DataFileError, match="refs: "):
            load_refs(tmp_path / "refs")
    finally:
        copyreg.remove_extension("os", "system", 7)


def test_truncated_at_any_place(tmp_path, records):
    content = pickle.dumps([records.ref(0, 100, 1, "train")], protocol=2)
    for length in range(0, len(content), 7):
        (tmp_path / "refs").write_bytes(content[:length])
        with pytest.raises(DataFileError, match="refs: not a complete pickle"):
            load_refs(tmp_path / "refs")


def test_no_pickle(tmp_path):
    (tmp_path / "refs").write_text("<html>404 not found</html>")
    with pytest.raises(DataFileError, match="not a complete pickle"):
        load_refs(tmp_path / "refs")


def test_no_list(tmp_path):
    (tmp_path / "refs").write_bytes(pickle.dumps({"refs": []}))
    with pytest.raises(DataFileError, match="holds a dict, want a list"):
        load_refs(tmp_path / "refs")


@pytest.mark.parametrize(
    "key", ["ref_id", "ann_id", "category_id", "image_id", "split", "sentences"]
)
def test_ref_without_a_key_is_named(tmp_path, records, key):
    refs = [records.ref(i, 100 + i, 1, "train") for i in range(40, 45)]
    del refs[3][key]
    (tmp_path / "refs").write_bytes(pickle.dumps(refs))
    ref_id = None if key == "ref_id" else 43
    with pytest.raises(DataFileError, match=rf"refs: ref #3 \(ref_id {ref_id}\).*`{key}`"):
        load_refs(tmp_path / "refs")


@pytest.mark.parametrize("key", ["sent_id", "sent", "tokens"])
def test_sentence_without_a_key_is_named(tmp_path, records, key):
    refs = [records.ref(i, 100 + i, 1, "train") for i in range(40, 45)]
    del refs[2]["sentences"][1][key]
    (tmp_path / "refs").write_bytes(pickle.dumps(refs))
    with pytest.raises(DataFileError, match=rf"#2 \(ref_id 42\).*`{key}`.*sentences\[1\]"):
        load_refs(tmp_path / "refs")


@pytest.mark.parametrize(
    ("key", "value"), [("ann_id", [1, 2]), ("split", None), ("sentences", {}), ("ref_id", 1.5)]
)
def test_value_of_another_type_is_named(tmp_path, records, key, value):
    refs = [{**records.ref(0, 100, 1, "train"), key: value}]
    (tmp_path / "refs").write_bytes(pickle.dumps(refs))
    with pytest.raises(DataFileError, match=rf"ref #0.*\$\.{key}"):
        load_refs(tmp_path / "refs")


def test_ref_id_twice(tmp_path, records):
    refs = [records.ref(i, 100 + i, 1, "train") for i in (1, 2, 3, 2)]
    (tmp_path / "refs").write_bytes(pickle.dumps(refs))
    with pytest.raises(DataFileError, match="ref_id 2 occurs twice"):
        load_refs(tmp_path / "refs")


def test_no_file(tmp_path):
    with pytest.raises(MissingDataError, match=r"no ref file at .*refs\(unc\)\.p"):
        load_refs(tmp_path / "refs(unc).p")
