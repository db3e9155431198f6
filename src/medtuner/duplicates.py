"""Texts that stand twice: equal up to white space, nearly equal, or with a sentence in common.

    index = TextIndex(documents)
    index.same(document), index.near(document)      # positions in `documents`
    find_leaks(train, evaluation)                   # what training would know of the evaluation data

Near means that two texts share most of their runs of five words: candidates by MinHash (Broder 1997) and LSH, each
confirmed by the true Jaccard similarity. Sentences of fewer than eight words are stock phrases ("All rights
reserved."): tolerated, listed.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medtuner.corpora import Splits
from medtuner.documents import Document

NEAR = 0.8
_SHINGLE = 5
_STOCK_WORDS = 8
_WORD = re.compile(r"\w+")

Sentences = Callable[[str], Iterable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A training document that shows evaluation data, and how; `tolerated` for stock phrases."""

    train: str
    evaluation: str
    kind: Literal["same document", "near-duplicate", "same sentence"]
    tolerated: bool = False


def normalise(text: str) -> str:
    """Return a text with every run of white space as one blank."""
    return " ".join(text.split())


def _words_of(text: str) -> str:
    """Return a sentence as its words alone: tokenised and raw spelling, and punctuation, make no difference."""
    return " ".join(_WORD.findall(text.lower())) or normalise(text)


class TextIndex:
    """Finds documents of equal or nearly equal text; positions are those of the documents it was made of."""

    def __init__(self, documents: Sequence[Document]) -> None:
        from datasketch import MinHashLSH

        self._documents = documents
        self._same: dict[str, list[int]] = defaultdict(list)
        self._shingles = [_shingles(document.text) for document in documents]
        self._lsh: Any = MinHashLSH(num_perm=64, params=(16, 4))  # 16 bands of 4 rows miss under 0.1% at 0.8
        for position, document in enumerate(documents):
            self._same[normalise(document.text)].append(position)
            if self._shingles[position]:
                self._lsh.insert(position, _min_hash(self._shingles[position]))

    def same(self, document: Document) -> list[int]:
        """Return the documents whose text is equal up to white space."""
        return self._same.get(normalise(document.text), [])

    def near(self, document: Document) -> list[int]:
        """Return the documents whose text is nearly equal, those of equal text left out."""
        own = _shingles(document.text)
        if not own:
            return []
        found = sorted(set(self._lsh.query(_min_hash(own))) - set(self.same(document)))
        return [position for position in found if _jaccard(own, self._shingles[position]) >= NEAR]

    def near_pairs(self) -> list[tuple[str, str]]:
        """Return the ids of each two of the index's own documents that are nearly equal."""
        return [
            (document.id, self._documents[other].id)
            for position, document in enumerate(self._documents)
            for other in self.near(document)
            if other > position
        ]


def _shingles(text: str) -> frozenset[str]:
    words = _WORD.findall(text.lower())
    return frozenset(" ".join(words[start : start + _SHINGLE]) for start in range(len(words) - _SHINGLE + 1))


def _min_hash(shingles: frozenset[str]) -> Any:
    from datasketch import MinHash

    result = MinHash(num_perm=64, seed=1)
    result.update_batch([shingle.encode() for shingle in shingles])
    return result


def _jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    return len(left & right) / len(left | right)


def warn_of_shared(splits: Splits) -> Iterator[str]:
    """Say for dev and test how many of their texts, stock phrases aside, stand in training word for word."""
    known = {_words_of(document.text) for document in splits.train.documents}
    for name, corpus in splits.named().items():
        texts = [_words_of(document.text) for document in corpus.documents] if name != "train" else []
        shared = sum(text in known and len(_WORD.findall(text)) >= _STOCK_WORDS for text in texts)
        if shared:
            yield f"{name}: {shared} of {len(texts):,} texts stand in the training data too, word for word"


def _sentence_words(document: Document, sentences: Sentences) -> Iterable[str]:
    """Return the sentences of a text as words, each once: by its own lines, and as if none of them were wrapped."""
    texts = dict.fromkeys((document.text, normalise(document.text)))
    return dict.fromkeys(_words_of(sentence) for text in texts for sentence in sentences(text))


def find_leaks(train: Sequence[Document], evaluation: Sequence[Document], *, sentences: Sentences) -> list[Leak]:
    """Return what training documents share with evaluation documents; one row a pair, the strongest kind."""
    index = TextIndex(evaluation)
    by_sentence: dict[str, list[int]] = defaultdict(list)
    for position, document in enumerate(evaluation):
        for sentence in _sentence_words(document, sentences):
            by_sentence[sentence].append(position)
    leaks: list[Leak] = []
    for document in train:
        seen: set[int] = set()
        for kind, found in (("same document", index.same(document)), ("near-duplicate", index.near(document))):
            leaks += [_leak(document, evaluation[position], kind) for position in found]
            seen.update(found)
        for sentence in _sentence_words(document, sentences):
            stock = len(_WORD.findall(sentence)) < _STOCK_WORDS
            for position in by_sentence.get(sentence, []):
                if position not in seen:
                    leaks.append(_leak(document, evaluation[position], "same sentence", tolerated=stock))
                    if not stock:
                        seen.add(position)
    return leaks


def _leak(train: Document, evaluation: Document, kind: Any, *, tolerated: bool = False) -> Leak:
    return Leak(train=train.id, evaluation=evaluation.id, kind=kind, tolerated=tolerated)
