"""Words and sentences of raw text by spaCy: `blank("en")` and its like, or a pipeline that is installed.

tokenizer = SpacyTokenizer("en")                  # or "fr", or "en_core_web_sm"
document = tokenizer.tokenise(document, counts)   # with `tokens`, cut where a mention cuts a word
tokenizer.sentences(document.text)
"""

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

from medtuner.documents import Document, Offsets
from medtuner.errors import DataError


class SpacyTokenizer:
    """Cuts texts as spaCy does; a two-letter name is a language's rules alone, a longer one an installed pipeline."""

    def __init__(self, name: str) -> None:
        self._nlp = _load(name)

    def tokenise(self, document: Document, counts: Counter[str]) -> Document:
        """Give a document `tokens` where it has none; a token that a mention cuts is divided there and counted."""
        if document.tokens is not None:
            return document
        tokens = [
            (token.idx, token.idx + len(token)) for token in self._nlp.make_doc(document.text) if not token.is_space
        ]
        borders = sorted({border for span in document.spans for border in (span.start, span.end)})
        cut = [piece for token in tokens for piece in _divide(token, borders)]
        counts["token divided where a mention begins or ends"] += len(cut) - len(tokens)
        return replace(document, tokens=tuple(cut))

    def sentences(self, text: str) -> Iterator[str]:
        """Yield the sentences of a text; line breaks end one too."""
        for line in text.split("\n"):
            if line.strip():
                yield from (sentence.text for sentence in self._nlp(line).sents)


def _divide(token: Offsets, borders: list[int]) -> list[Offsets]:
    inside = [border for border in borders if token[0] < border < token[1]]
    edges = [token[0], *inside, token[1]]
    return list(pairwise(edges))


@functools.cache
def _load(name: str) -> Any:
    try:
        import spacy
    except ImportError:
        raise DataError('raw text is tokenised by spaCy. Run: pip install "medtuner[formats]"') from None
    try:
        nlp = spacy.load(name) if len(name) > 3 else spacy.blank(name)  # languages have codes of two or three letters
    except (OSError, ImportError) as error:
        raise DataError(
            f"data.language = {name!r}: spaCy has no such language or pipeline here ({str(error).splitlines()[0]}). A "
            "language is named as en or fr; a pipeline must be installed, as en_core_web_sm."
        ) from None
    if not any(nlp.has_pipe(pipe) for pipe in ("parser", "senter", "sentencizer")):
        nlp.add_pipe("sentencizer")
    return nlp
