"""Words and sentences of raw text by spaCy: `blank("en")` and its like, or a pipeline that is installed.

tokenizer = SpacyTokenizer("en")                  # or "fr", or "en_core_web_sm"
document = tokenizer.tokenise(document, counts)   # with `tokens` and `sentences`
tokenizer.sentences(document.text)
"""

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from medtuner.documents import SENTENCES, Document, Offsets
from medtuner.errors import DataError

_SENTENCES_BY = ("parser", "senter", "sentencizer")


class SpacyTokenizer:
    """Cuts texts as spaCy does; a short name is a language's rules alone, a longer one an installed pipeline."""

    def __init__(self, name: str) -> None:
        self._nlp = _load(name)

    def tokenise(self, document: Document, counts: Counter[str], *, divide: bool = True) -> Document:
        """Give a document `tokens` and the key `sentences`, each as offsets, where it has no tokens.

        A token that a mention cuts is divided there unless `divide` is False, as it must be where mentions are to be
        predicted; a sentence border inside a mention is passed over. Both are counted.
        """
        if document.tokens is not None:
            return document
        tokens: list[Offsets] = []
        sentences: list[Offsets] = []
        for words, found in self._lines(document.text):
            tokens += words
            sentences += found
        if divide:
            borders = sorted({border for span in document.spans for border in (span.start, span.end)})
            cut = [piece for token in tokens for piece in _divide(token, borders)]
            counts["token divided where a mention begins or ends"] += len(cut) - len(tokens)
            whole = _join_cut(sentences, [(span.start, span.end) for span in document.spans])
            counts["sentence border inside a mention, passed over"] += len(sentences) - len(whole)
            tokens, sentences = cut, whole
        extra = {**document.extra, SENTENCES: [list(sentence) for sentence in sentences]}
        return replace(document, tokens=tuple(tokens), extra=extra)

    def sentences(self, text: str) -> Iterator[str]:
        """Yield the sentences of a text; line breaks end one too."""
        for _, found in self._lines(text):
            yield from (text[start:end] for start, end in found)

    def _lines(self, text: str) -> Iterator[tuple[list[Offsets], list[Offsets]]]:
        """Yield the tokens and the sentences of each line."""
        begin = 0
        for line in text.split("\n"):
            if line.strip():
                doc = self._nlp(line)
                places = [(begin + token.idx, begin + token.idx + len(token)) for token in doc if not token.is_space]
                yield places, [(begin + sent.start_char, begin + sent.end_char) for sent in doc.sents]
            begin += len(line) + 1


def _join_cut(sentences: Sequence[Offsets], mentions: Sequence[Offsets]) -> list[Offsets]:
    """Return sentences, joined where a mention lies over their border."""
    whole: list[Offsets] = []
    for sentence in sentences:
        if whole and any(start < sentence[0] < end for start, end in mentions):
            whole[-1] = (whole[-1][0], sentence[1])
        else:
            whole.append(sentence)
    return whole


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
    nlp.max_length = 10**9  # the limit is for parsers and recognisers, and texts come line by line
    for pipe in nlp.pipe_names:
        if pipe not in (*_SENTENCES_BY, "tok2vec", "transformer"):
            nlp.disable_pipe(pipe)
    if not any(nlp.has_pipe(pipe) for pipe in _SENTENCES_BY):
        nlp.add_pipe("sentencizer")
    return nlp
