"""Tensors on disk: what is kept comes back, what is damaged or of other weights does not."""

from __future__ import annotations

import io
import os

import pytest
import torch

from vpd import DiffusionBackbone, cache
from vpd.cache import TensorCache, digest_of
from vpd.errors import ConfigError
from vpd.weights import random_components
from vpd.zoo import ZOO


def opened(root, depends=("weights",), dtype="float32"):
    return TensorCache(root, "latents", depends, (2, 3), dtype)


def test_what_was_kept_comes_back_in_this_and_later_runs(tmp_path):
    first, tensors = opened(tmp_path), [torch.randn(2, 3) for _ in range(5)]
    for number, tensor in enumerate(tensors):
        assert first.get(digest_of(b"%d" % number)) is None
        assert torch.equal(first.put(digest_of(b"%d" % number), tensor), tensor)
    for later in (first, opened(tmp_path)):
        assert len(later) == 5
        for number, tensor in enumerate(tensors):
            assert torch.equal(later.get(digest_of(b"%d" % number)), tensor)


def test_half_precision_rounds_alike_at_once_and_later(tmp_path):
    kept, tensor = opened(tmp_path, dtype="float16"), torch.randn(2, 3)
    given = kept.put(digest_of(b"a"), tensor)
    assert torch.equal(given, tensor.half().float())
    assert torch.equal(opened(tmp_path, dtype="float16").get(digest_of(b"a")), given)


def test_other_weights_or_dtypes_never_meet(tmp_path):
    opened(tmp_path).put(digest_of(b"a"), torch.ones(2, 3))
    assert opened(tmp_path, depends=("others",)).get(digest_of(b"a")) is None
    assert opened(tmp_path, dtype="float16").get(digest_of(b"a")) is None


def test_other_shapes_of_as_many_numbers_never_meet(tmp_path):
    """Pictures in landscape and in portrait."""
    opened(tmp_path).put(digest_of(b"a"), torch.ones(2, 3))
    assert TensorCache(tmp_path, "latents", ("weights",), (3, 2)).get(digest_of(b"a")) is None


@pytest.mark.parametrize("damage", ["payload", "cut", "crc"])
def test_a_damaged_record_is_absent_and_can_be_written_anew(tmp_path, damage):
    first = opened(tmp_path)
    for name in (b"a", b"b"):
        first.put(digest_of(name), torch.ones(2, 3))
    (part,) = first.folder.glob("part_*.bin")
    content = bytearray(part.read_bytes())
    if damage == "cut":
        content = content[:-1]
    else:
        content[-1 if damage == "payload" else len(content) // 2 + 33] ^= 1
    part.write_bytes(bytes(content))
    later = opened(tmp_path)
    assert torch.equal(later.get(digest_of(b"a")), torch.ones(2, 3))
    assert later.get(digest_of(b"b")) is None
    later.put(digest_of(b"b"), torch.full((2, 3), 2.0))
    assert torch.equal(later.get(digest_of(b"b")), torch.full((2, 3), 2.0))
    assert torch.equal(opened(tmp_path).get(digest_of(b"b")), torch.full((2, 3), 2.0))


def test_what_lies_in_place_of_a_part_is_passed_over(tmp_path):
    """A pipe would be waited for; a part that went away leaves a link that leads nowhere."""
    first = opened(tmp_path)
    first.put(digest_of(b"a"), torch.ones(2, 3))
    (first.folder / "part_folder.bin").mkdir()
    (first.folder / "part_link.bin").symlink_to(tmp_path / "nowhere")
    (first.folder / "part_loop.bin").symlink_to("part_loop.bin")
    os.mkfifo(first.folder / "part_pipe.bin")
    assert len(opened(tmp_path)) == 1


def test_two_processes_share_without_writing_to_one_file(tmp_path):
    one, two = opened(tmp_path), opened(tmp_path)
    one.put(digest_of(b"a"), torch.ones(2, 3))
    two.put(digest_of(b"b"), torch.zeros(2, 3))
    assert two.get(digest_of(b"a")) is None
    two.refresh()
    assert torch.equal(two.get(digest_of(b"a")), torch.ones(2, 3))
    assert torch.equal(two.get(digest_of(b"b")), torch.zeros(2, 3))


def test_what_others_wrote_is_read_once(tmp_path, monkeypatch):
    one, two = opened(tmp_path), opened(tmp_path)
    read = []

    class Counted(io.FileIO):
        def read(self, size=-1):
            read.append(size)
            return super().read(size)

    monkeypatch.setattr(cache, "open", Counted, raising=False)
    for number in range(3):
        one.put(digest_of(b"%d" % number), torch.ones(2, 3))
        two.refresh()
        two.refresh()
    assert (len(two), len(read)) == (3, 3)


def test_a_record_cut_by_a_full_disk_shifts_none_after_it(tmp_path, monkeypatch):
    kept = opened(tmp_path)
    kept.put(digest_of(b"a"), torch.ones(2, 3))

    class Filling(io.FileIO):
        def write(self, content):
            super().write(content[:7])
            raise OSError("No space left on device")

    with monkeypatch.context() as full:
        full.setattr(cache, "open", Filling, raising=False)
        kept.put(digest_of(b"b"), torch.ones(2, 3))
    later = {digest_of(b"c"): torch.zeros(2, 3), digest_of(b"d"): torch.full((2, 3), 2.0)}
    for digest, tensor in later.items():
        kept.put(digest, tensor)
    for cache_of_run in (kept, opened(tmp_path)):
        assert len(cache_of_run) == 3
        for digest, tensor in later.items():
            assert torch.equal(cache_of_run.get(digest), tensor)


def test_a_full_disk_leaves_the_record_out(tmp_path, monkeypatch):
    kept = opened(tmp_path)
    kept.put(digest_of(b"a"), torch.ones(2, 3))

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(cache, "open", full, raising=False)
    assert torch.equal(kept.put(digest_of(b"b"), torch.ones(2, 3)), torch.ones(2, 3))
    assert kept.get(digest_of(b"b")) is None
    monkeypatch.undo()
    kept.put(digest_of(b"c"), torch.zeros(2, 3))
    assert torch.equal(opened(tmp_path).get(digest_of(b"c")), torch.zeros(2, 3))


@pytest.fixture(scope="module")
def components():
    return random_components(ZOO["tiny"], 0)


def kept_by(backbone: DiffusionBackbone, root, precision: str) -> TensorCache:
    """The backbone's cache of latents as a run in this precision opens it."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        return backbone.latent_cache(root, (64, 64))


@pytest.mark.parametrize(
    ("scale", "precision"), [(1.0, "bf16"), (0.18215, "fp32"), (0.18215, "bf16")]
)
def test_latents_of_another_factor_or_precision_never_meet(components, tmp_path, scale, precision):
    plain, other = (
        DiffusionBackbone(components, token_length=8, latent_scale=factor)
        for factor in (1.0, scale)
    )
    digest, latent = digest_of(b"a"), torch.randn(8, 8, 8)
    kept_by(plain, tmp_path, "fp32").put(digest, latent)
    assert torch.equal(kept_by(plain, tmp_path, "fp32").get(digest), latent)
    theirs = kept_by(other, tmp_path, precision)
    assert theirs.get(digest) is None
    theirs.put(digest, latent + 1)
    assert torch.equal(kept_by(other, tmp_path, precision).get(digest), latent + 1)
    assert torch.equal(kept_by(plain, tmp_path, "fp32").get(digest), latent)


def test_wrong_use_is_told(tmp_path):
    with pytest.raises(ConfigError, match="float32, float16"):
        opened(tmp_path, dtype="int8")
    with pytest.raises(ConfigError, match=r"\(2, 3\)"):
        opened(tmp_path).put(digest_of(b"a"), torch.ones(3))
