"""From sentences to the context that conditions the UNet: tokenizer, CLIP text encoder, adapter.

Shapes: S sentences, T tokens, D channels of the text encoder.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from vpd.cleaning import clean
from vpd.errors import ConfigError, TextError

CHUNK = 8  # sentences that go through the encoder together
CLIP_MERGES = 48894  # lines 1 to 48894 of the vocabulary file are the merges of the 49,408 tokens


@lru_cache(maxsize=1)
def clip_tokenizer() -> CLIPTokenizer:
    """OpenAI CLIP's tokenizer of 49,408 tokens, from the merges that mmsegmentation ships."""
    spec = find_spec("mmseg")
    if spec is None or spec.origin is None:
        raise ImportError(
            "the CLIP vocabulary comes with mmsegmentation; pip install mmsegmentation"
        )
    path = Path(spec.origin).parent / "utils" / "bpe_simple_vocab_16e6.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : CLIP_MERGES + 1]
    symbols = _byte_symbols()
    words = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    words += ["".join(merge.split()) for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[tuple(merge.split()) for merge in merges])


def _byte_symbols() -> list[str]:
    """The 256 byte symbols in CLIP's order: printable bytes as themselves, the others shifted."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]


def token_counts(tokenizer: CLIPTokenizer, sentences: Sequence[str]) -> list[int]:
    """Tokens of each sentence, begin and end tokens included, before any truncation."""
    if not sentences:  # the tokenizer takes no empty list
        return []
    return [len(ids) for ids in tokenizer([clean(s) for s in sentences])["input_ids"]]


def cleaned_span(sentence: str, start: int, end: int) -> tuple[str, int, int]:
    """The cleaned sentence, and where in it the characters [start, end) of the sentence are.

    Raises TextError for a span that is none, or that cleaning tears apart.
    """
    if not 0 <= start < end <= len(sentence) or not sentence[start:end].strip():
        raise TextError(
            f"characters {start} to {end} of {sentence!r} hold no words; a phrase is a span "
            f"[start, end) within its {len(sentence)} characters"
        )
    before, inside, after = sentence[:start], sentence[start:end], sentence[end:]
    whole = clean(before)
    if whole and (before[-1].isspace() or inside[0].isspace()):
        whole += " "
    first, last = len(whole), len(whole) + len(clean(inside))
    whole += clean(inside)
    if clean(after) and (inside[-1].isspace() or after[0].isspace()):
        whole += " "
    whole += clean(after)
    if whole == clean(sentence):
        return whole, first, last
    # Mending may join what the cut separates (an entity, a broken accent): then by the words.
    whole, words = clean(sentence), clean(inside)
    if not words or whole.count(words) != 1:
        raise TextError(
            f"the phrase {inside!r} at characters {start} to {end} cannot be told from the rest of "
            f"{sentence!r} once its characters are mended ({whole!r}); mend the caption in the data"
        )
    return whole, whole.index(words), whole.index(words) + len(words)


def token_spans(
    tokenizer: CLIPTokenizer, sentence: str, spans: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """For spans of characters [start, end) of a sentence, the tokens [first, last) that hold any
    of them. The begin token is token 0; nothing is cut. Raises TextError (see `cleaned_span`)."""
    encoded = tokenizer(clean(sentence), return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]
    found = []
    for start, end in spans:
        _, first, last = cleaned_span(sentence, start, end)
        # The begin and end tokens have empty offsets and meet no span.
        met = [n for n, (low, high) in enumerate(offsets) if low < last and high > max(low, first)]
        if not met:
            raise TextError(
                f"no token of {sentence!r} lies at characters {start} to {end} "
                f"({sentence[start:end]!r}); the tokenizer drops them"
            )
        found.append((met[0], met[-1] + 1))
    return found


def tokenize(tokenizer: CLIPTokenizer, sentences: Sequence[str], token_length: int) -> Tensor:
    """int64 [S, T]: ids cut at, or padded to, `token_length`. CLIP's own tokenizer pads with the
    end token, that of Stable Diffusion 2.x with another.

    Raises:
        TextError: a sentence is empty or no string.
    """
    for index, sentence in enumerate(sentences):
        if not isinstance(sentence, str) or not sentence.strip():
            raise TextError(
                f"sentence {index} of {len(sentences)} is {sentence!r}; a referring expression "
                "must be a non-empty string"
            )
    batch = tokenizer(
        [clean(s) for s in sentences],
        padding="max_length",
        truncation=True,
        max_length=token_length,
        return_tensors="pt",
    )
    return batch["input_ids"]


@torch.no_grad()
def encode(
    encoder: CLIPTextModel, tokenizer: CLIPTokenizer, sentences: Sequence[str], token_length: int
) -> Tensor:
    """Last hidden state float [S, T, D] of the frozen encoder.

    No attention mask is passed: the published code passes none, so padding takes part.

    Raises:
        TextError: an empty sentence. ConfigError: more tokens than the encoder has positions.
    """
    positions = encoder.config.max_position_embeddings
    if not 2 < token_length <= positions:
        raise ConfigError(f"token_length {token_length} is outside 3 to {positions}")
    ids = tokenize(tokenizer, sentences, token_length).to(encoder.device, non_blocking=True)
    # The features are kept across batches and runs: autocast must not decide them, nor the number
    # of sentences that came together, on which rounding depends; so every chunk is of one size.
    full = torch.cat([ids, ids[-1:].expand(-len(ids) % CHUNK, -1)])
    with torch.autocast(encoder.device.type, enabled=False):
        parts = [encoder(input_ids=chunk).last_hidden_state for chunk in full.split(CHUNK)]
    return torch.cat(parts)[: len(ids)]


class TextAdapter(nn.Module):
    """context = text + gamma * MLP(text); gamma starts at 1e-4 (VPD, section 3.2).

    Parameter names follow the released checkpoint: `fc.0`, `fc.2`, and `gamma` beside it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels)
        )
        self.gamma = nn.Parameter(torch.full((channels,), 1e-4))

    def forward(self, text: Tensor) -> Tensor:
        """float [S, T, D] -> float [S, T, D]."""
        return text + self.gamma * self.fc(text)
