"""Boxes and masks of phrases: losses, spans of tokens, heads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from refer.boxes import to_pixels, to_shares
from ris.errors import OptionError
from ris.ground_loss import GroundLoss, dice_loss, edge_loss, focal_loss, generalized_iou
from ris.heads import GroundOutput, PhraseInput, build_head
from ris.heads.phrase_pixels import EdgeProfiles, expected_box, first_place
from ris.phrase_text import ask, bracketed
from vpd.errors import TextError
from vpd.text import clean, clip_tokenizer, token_spans

CHANNELS = (12, 20, 20, 16)
REFTR = {"type": "RefTRHead", "width": 32, "heads": 4, "feedforward": 32, "dropout": 0.0,
         "encoder_layers": 1, "decoder_layers": 2}  # fmt: skip
PIXELS = {"type": "PhrasePixelHead", "channels": 16, "word_channels": 8, "width": 8}
CAPTION = "a red circle, two blue squares and a star"
SPANS = [(0, 12), (14, 30), (35, 41)]


# --- losses


def counted_giou(a: list[int], b: list[int]) -> float:
    """GIoU of whole-number boxes by counting the squares of a grid."""

    def cells(box: list[int]) -> set[tuple[int, int]]:
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    one, two = cells(a), cells(b)
    around = cells([*map(min, a[:2], b[:2]), *map(max, a[2:], b[2:])])
    return len(one & two) / len(one | two) - len(around - (one | two)) / len(around)


def test_giou_is_that_of_counted_squares():
    rng = np.random.default_rng(0)
    low = rng.integers(0, 8, (200, 2, 2))
    boxes = np.concatenate([low, low + rng.integers(1, 7, (200, 2, 2))], axis=2)
    found = generalized_iou(*torch.tensor(boxes, dtype=torch.float32).unbind(dim=1))
    expected = [counted_giou(a.tolist(), b.tolist()) for a, b in boxes]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_giou_of_empty_boxes_is_finite_with_a_gradient():
    box = torch.zeros(1, 4, requires_grad=True)
    generalized_iou(box, torch.tensor([[0.2, 0.2, 0.6, 0.6]])).sum().backward()
    assert torch.isfinite(box.grad).all()
    assert generalized_iou(torch.zeros(1, 4), torch.zeros(1, 4)).isfinite().all()


def test_focal_and_dice_by_hand():
    logits, truth = torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[1, 0]]])
    share = 1 / (1 + math.exp(-2.0))
    expected = (0.25 * 0.5**2 * -math.log(0.5) + 0.75 * share**2 * -math.log(1 - share)) / 2
    assert focal_loss(logits, truth).item() == pytest.approx(expected, rel=1e-5)
    assert dice_loss(logits, truth).item() == pytest.approx(
        1 - (2 * 0.5 + 1) / (0.5 + share + 1 + 1), rel=1e-5
    )


def test_edges_between_two_places_are_shared_out():
    edges = torch.randn(2, 4, 5)
    truth = torch.tensor([[0.0, 0.3, 0.5, 1.0]] * 2)
    logs = edges.log_softmax(dim=2)
    hand = [logs[:, 0, 0], 0.8 * logs[:, 1, 1] + 0.2 * logs[:, 1, 2], logs[:, 2, 2], logs[:, 3, 4]]
    assert torch.allclose(edge_loss(edges, truth), -torch.stack(hand).mean(dim=0), atol=1e-5)
    sure = torch.full((1, 4, 5), -100.0)
    for edge, place in enumerate((1, 0, 3, 4)):  # x1 .25, y1 0, x2 .75, y2 1
        sure[0, edge, place] = 100.0
    assert torch.allclose(expected_box(sure), torch.tensor([[0.5, 0.5, 0.5, 1.0]]))


def test_the_first_place_that_is_reached():
    """Written out, and a row that is sure: the edges of two things are those around both."""
    logits = torch.randn(1, 6)
    share = logits.sigmoid()[0].tolist()
    expected, none_before = [], 1.0
    for one in share:
        expected.append(one * none_before)
        none_before *= 1 - one
    assert first_place(logits).exp()[0].tolist() == pytest.approx(expected, rel=1e-4)
    row = torch.tensor([[-30.0, -30, 30, 30, -30, 30, -30, -30]])
    assert first_place(row).argmax() == 2
    assert first_place(row.flip(1)).flip(1).argmax() == 5


def test_losses_are_summed_over_phrases_and_divided_as_asked():
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5]] * 3] * 2)
    truth = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.6, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.3]])
    output = GroundOutput(boxes, None)
    published = GroundLoss()(output, truth, captions=1)
    assert published["loss_l1"].item() == pytest.approx(2 * (0.1 + 0.2))  # both layers
    assert set(published) == {"loss_l1", "loss_giou"}
    last = GroundLoss(auxiliary=False)(output, truth, captions=1)
    assert last["loss_l1"].item() == pytest.approx(0.3)
    mean = GroundLoss(auxiliary=False, divide_by="phrases")(output, truth, captions=1)
    assert mean["loss_l1"].item() == pytest.approx(0.1)
    for wrong in ({"weights": {"box": 1.0}}, {"divide_by": "boxes"}):
        with pytest.raises(OptionError, match=r"there are|choose"):
            GroundLoss(**wrong)


def test_boxes_there_and_back():
    boxes = torch.tensor([[3.0, 4.0, 13.0, 9.0]])
    assert torch.allclose(to_pixels(to_shares(boxes, 20, 40), 20, 40), boxes)


# --- spans


def tokens_of(caption: str, span: tuple[int, int]) -> list[str]:
    tokenizer = clip_tokenizer()
    ((first, last),) = token_spans(tokenizer, caption, [span])
    ids = tokenizer(clean(caption))["input_ids"]
    return tokenizer.convert_ids_to_tokens(ids[first:last])


@pytest.mark.parametrize("before", ["", "Two ", "at 5 &amp; 6, ", "ein Café  mit ", "(", "x\n\t"])
@pytest.mark.parametrize("phrase", ["a Red ball", "cafés", "man's   hat", "R&amp;B"])
@pytest.mark.parametrize("after", ["", " and more", ", then", ")"])
def test_a_spans_tokens_are_those_of_its_words(before, phrase, after):
    """The tokens of the words alone, tokenized by themselves, are an independent truth wherever
    the phrase stands between blanks or punctuation."""
    caption = before + phrase + after
    tokenizer = clip_tokenizer()
    alone = tokenizer(clean(phrase))["input_ids"][1:-1]
    found = tokens_of(caption, (len(before), len(before) + len(phrase)))
    assert found == tokenizer.convert_ids_to_tokens(alone)


def test_a_span_within_a_word_takes_the_word_in():
    assert tokens_of("reddish ball", (0, 3)) == tokens_of("reddish ball", (0, 7))


@pytest.mark.parametrize("span", [(0, 0), (3, 2), (0, 99), (5, 6), (-1, 3)])
def test_a_span_that_is_none_is_named(span):
    with pytest.raises(TextError, match="hold no words"):
        token_spans(clip_tokenizer(), "a red ball", [span])


def test_phrases_behind_the_encoders_reach_are_asked_in_the_rest_of_their_caption():
    tokenizer = clip_tokenizer()
    words = [f"word{chr(97 + n)}" for n in range(20)]
    caption = " ".join(words)
    spans = [(caption.index(word), caption.index(word) + len(word)) for word in words]
    found = ask(tokenizer, ["short", caption], [1] * 20 + [0], [*spans, (0, 5)], 12)
    assert set(found.origin) == {0, 1}
    assert found.phrases == [*words, "short"]
    for index, word in enumerate(found.phrases):
        text = found.captions[found.caption[index]]
        ids = tokenizer(text, truncation=True, max_length=12)["input_ids"]
        first, last = found.tokens[index]
        assert tokenizer.decode(ids[first:last]).strip() == word
        assert last <= 11  # the end token stays the last


@pytest.mark.parametrize(
    ("length", "captions", "tokens"),
    [
        (7, ["a red dog and cat"], [(2, 4), (5, 6)]),  # the end token has the last place
        (6, ["a red dog and cat", "cat"], [(2, 4), (1, 2)]),  # which would be the cat's
        (5, ["a red dog and cat", "cat"], [(2, 4), (1, 2)]),
        (4, ["red dog and cat", "cat"], [(1, 3), (1, 2)]),  # or the dog's
    ],
)
def test_no_phrase_gives_its_last_token_to_the_end_token(length, captions, tokens):
    """A begin token, five words of one token each, and an end token."""
    found = ask(clip_tokenizer(), ["a red dog and cat"], [0, 0], [(2, 9), (14, 17)], length)
    assert (found.captions, found.tokens) == (captions, tokens)


def test_captions_that_fit_are_asked_once():
    found = ask(clip_tokenizer(), [CAPTION, "a dog"], [0, 0, 0, 1], [*SPANS, (0, 5)], 40)
    assert (found.captions, found.origin, found.caption) == (
        [CAPTION, "a dog"],
        [0, 1],
        [0] * 3 + [1],
    )


def test_bracketed_captions():
    caption, spans = bracketed("[the red circle] next to [a square]")
    assert caption == "the red circle next to a square"
    assert [caption[start:end] for start, end in spans] == ["the red circle", "a square"]
    assert bracketed("the dog ") == ("the dog ", [(0, 7)])
    for wrong in ("[a", "a]", "[[a]]", "[ ] b"):
        with pytest.raises(ValueError, match="bracket"):
            bracketed(wrong)


# --- heads


def said(lengths: tuple[int, ...] = (2, 1, 3), tokens: int = 8) -> PhraseInput:
    torch.manual_seed(1)
    count = sum(lengths)
    words = torch.arange(tokens) < torch.tensor([[6], [4], [8]])
    inside = torch.zeros(count, tokens, dtype=torch.bool)
    for phrase in range(count):
        inside[phrase, 1 + phrase % 2 : 3] = True
    caption = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    maps = tuple(torch.rand(3, tokens, side, side) for side in (8, 4))
    text, alone = torch.randn(3, tokens, 10), torch.randn(count, 10)
    return PhraseInput(text, words, inside, caption, alone, caption.tolist(), maps)


def pyramid() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(3, c, 16 >> level, 16 >> level) for level, c in enumerate(CHANNELS)]


@pytest.mark.parametrize("config", [REFTR, PIXELS], ids=["reftr", "pixels"])
@pytest.mark.parametrize("answers", ["boxes", "masks", "both"])
def test_every_parameter_is_used(config, answers):
    head = build_head({**config, "answers": answers}, CHANNELS, text_channels=10)
    output = head(pyramid(), said())
    assert (output.boxes is None) == (answers == "masks")
    assert (output.mask is None) == (answers == "boxes")
    parts = [part for part in output if part is not None]
    sum(part.square().sum() for part in parts).backward()
    assert not [name for name, own in head.named_parameters() if own.grad is None]


def test_reftrs_boxes_begin_as_the_middle_half():
    head = build_head(REFTR, CHANNELS, text_channels=10)
    boxes = head(pyramid(), said()).boxes
    assert boxes.shape == (2, 6, 4)
    assert (boxes == 0.5).all()


def trained_like(config: dict) -> torch.nn.Module:
    """A head whose box layer is not zero, in evaluation mode."""
    head = build_head({**config, "answers": "both"}, CHANNELS, text_channels=10).eval()
    torch.manual_seed(2)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return head


def answers_of(head: torch.nn.Module, words: PhraseInput) -> list[torch.Tensor]:
    with torch.no_grad():
        output = head(pyramid(), words)
    return [output.boxes[-1], output.mask]


@pytest.mark.parametrize("config", [REFTR, PIXELS], ids=["reftr", "pixels"])
def test_padding_is_not_read(config):
    """Neither padding tokens nor the places of captions with fewer phrases change an answer."""
    head, words = trained_like(config), said()
    other = words.text.clone()
    other[~words.words] = 100.0
    base = answers_of(head, words)
    for one, two in zip(base, answers_of(head, words._replace(text=other)), strict=True):
        assert torch.allclose(one, two, atol=1e-5)
    # The second caption has one phrase; ten of the first would pad it with nine more.
    more = [torch.cat([words[i][:2].repeat(5, *[1] * (words[i].ndim - 1)), words[i][2:]])
            for i in (2, 3, 4)]  # fmt: skip
    padded = answers_of(
        head, PhraseInput(words.text, words.words, *more, more[1].tolist(), words.maps)
    )
    for one, two in zip(base, padded, strict=True):
        assert torch.allclose(one[2], two[10], atol=1e-4)


@pytest.mark.parametrize("config", [REFTR, PIXELS], ids=["reftr", "pixels"])
def test_answers_follow_their_phrases_in_any_order(config):
    head, words = trained_like(config), said()
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    own = [words[i][order] for i in (2, 3, 4)]
    shuffled = PhraseInput(words.text, words.words, *own, own[1].tolist(), words.maps)
    for one, two in zip(answers_of(head, words), answers_of(head, shuffled), strict=True):
        assert torch.allclose(one[order], two, atol=1e-4)


def test_where_other_tokens_looked_is_no_matter():
    head, words = trained_like(PIXELS), said()
    outside = ~words.inside.any(dim=0)
    maps = [torch.where(outside[None, :, None, None], 9.0, level) for level in words.maps]
    base = answers_of(head, words)
    for one, two in zip(base, answers_of(head, words._replace(maps=tuple(maps))), strict=True):
        assert torch.equal(one, two)
    inner = [torch.where(outside[None, :, None, None], level, 9.0) for level in words.maps]
    assert not torch.equal(base[1], answers_of(head, words._replace(maps=tuple(inner)))[1])


def test_a_profile_is_the_most_telling_cell_and_the_mean():
    profiles = EdgeProfiles(2, 8).eval()
    seen = []
    profiles.along.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    maps = torch.randn(3, 2, 4, 6)
    assert profiles(maps).shape == (3, 4, 6)
    columns = torch.cat([maps.amax(dim=2), maps.mean(dim=2)], dim=1)
    rows = torch.cat([maps.amax(dim=3), maps.mean(dim=3)], dim=1)
    assert torch.equal(seen[0][:3], columns)
    assert torch.allclose(seen[0][3:, :, [0, -1]], rows[:, :, [0, -1]])  # resized to six


def test_only_tokens_of_the_phrase_are_pooled():
    from ris.heads.ground_parts import pool_tokens

    torch.manual_seed(0)
    values, inside = torch.randn(2, 5, 4), torch.zeros(2, 5, dtype=torch.bool)
    inside[0, 1:3] = inside[1, 3] = True
    scores, key = torch.randn(2, 5, 4), torch.randn(2, 4)
    pooled = pool_tokens(scores, key, values, inside)
    assert torch.allclose(pooled[1], values[1, 3])
    low, high = values[0, 1:3].amin(dim=0), values[0, 1:3].amax(dim=0)
    assert ((pooled[0] >= low - 1e-6) & (pooled[0] <= high + 1e-6)).all()


@pytest.mark.parametrize(
    "wrong", [{"answers": "mask"}, {"level": 4}, {"width": 30}, {"decoder_layers": 0}]
)
def test_settings_a_head_cannot_have_are_named(wrong):
    with pytest.raises(OptionError, match=r"answers|level|decoder_layers"):
        build_head({**REFTR, **wrong}, CHANNELS, text_channels=10)
