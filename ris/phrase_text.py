"""Captions and their phrases as the text encoder reads them.

Shapes: C captions as given, C' as asked, S phrases, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transformers import CLIPTokenizer

from vpd.text import token_spans

Span = tuple[int, int]


class AskedPhrases(NamedTuple):
    """captions: C' strings; origin: for each of them, which of the C captions it is (a part of);
    caption: for each of S phrases, which of the C'; tokens: [first, last) of each phrase in it,
    within T; phrases: their words."""

    captions: list[str]
    origin: list[int]
    caption: list[int]
    tokens: list[Span]
    phrases: list[str]


def ask(
    tokenizer: CLIPTokenizer,
    captions: Sequence[str],
    caption_of_phrase: Sequence[int],
    spans: Sequence[Span],
    token_length: int,
) -> AskedPhrases:
    """Find the tokens of phrases given by characters [start, end) of their captions.

    Captions end where the encoder's T tokens do. A phrase behind that is asked in the rest of its
    caption, from itself on, so that none is lost; what stood before it is not read with it. A
    phrase of more than T tokens is read as far as they go.

    Raises vpd.TextError for a span without words, or whose tokens cannot be told.
    """
    texts: list[str] = []
    origin: list[int] = []
    caption = [0] * len(spans)
    tokens: list[Span] = [(0, 0)] * len(spans)
    waiting: dict[int, list[int]] = {}
    for index, number in enumerate(caption_of_phrase):
        waiting.setdefault(int(number), []).append(index)
    for number, members in waiting.items():
        left, begin = sorted(members, key=lambda index: spans[index]), 0
        while left:
            text = captions[number][begin:]
            own = [(spans[index][0] - begin, spans[index][1] - begin) for index in left]
            behind: list[int] = []
            for index, (first, last) in zip(left, token_spans(tokenizer, text, own), strict=True):
                # The end token takes the last place.
                if last < token_length or spans[index][0] == begin:
                    caption[index] = len(texts)
                    tokens[index] = first, min(last, token_length - 1)
                else:
                    behind.append(index)
            if len(behind) < len(left):
                texts.append(text)
                origin.append(number)
            left = behind
            if left:
                begin = spans[left[0]][0]
    phrases = [
        captions[int(number)][start:end]
        for number, (start, end) in zip(caption_of_phrase, spans, strict=True)
    ]
    return AskedPhrases(texts, origin, caption, tokens, phrases)


def bracketed(text: str) -> tuple[str, list[Span]]:
    """A caption with its phrases in square brackets -> the caption without, and their spans.

    "[the red circle] next to [a square]" -> ("the red circle next to a square", [(0, 14), ...]).
    Without brackets the whole of it is the one phrase.

    Raises ValueError for brackets that are not paired, nested or around no words.
    """
    if "[" not in text and "]" not in text:
        begin = len(text) - len(text.lstrip())
        return text, [(begin, len(text.rstrip()))]
    plain, opened = "", None
    spans: list[Span] = []
    for place, letter in enumerate(text):
        if letter == "[":
            if opened is not None:
                raise ValueError(f"a bracket opens within a phrase at letter {place} of {text!r}")
            opened = len(plain)
        elif letter == "]":
            if opened is None:
                raise ValueError(
                    f"a bracket closes that was not opened, letter {place} of {text!r}"
                )
            if not plain[opened:].strip():
                raise ValueError(f"the brackets before letter {place} of {text!r} hold no words")
            spans.append((opened, len(plain)))
            opened = None
        else:
            plain += letter
    if opened is not None:
        raise ValueError(f"a bracket of {text!r} is not closed")
    return plain, spans
