"""Sentences as CLIP's tokenizer wants them; without torch, for programs that have none."""

from __future__ import annotations

import html

import ftfy


def clean(sentence: str) -> str:
    """Mend unicode and html entities, collapse white space, lower the case, as CLIP does."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(sentence))).split()).lower()
