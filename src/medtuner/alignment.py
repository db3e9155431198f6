"""Characters, words, units and subwords: the one place where a span can be lost, and it keeps a ledger.

    encoder = SubwordEncoder(tokenizer, max_tokens=512, overlap=64)
    encoded = encoder.encode(documents)                # units and subwords of each document, whole
    tags = tag_units(encoded[0], space, account)       # one BIO tag a unit
    windows = cut_windows(encoded[0], encoder)         # what the encoder sees at once; nothing is truncated

The text is encoded as it stands, as `transformers.pipeline` does, so leading-space rules (byte-level BPE, SentencePiece)
are the tokeniser's own. A *unit* is what is trained and predicted as one: a word, or the neighbouring words that one
subword glues together. Words are the document's `tokens`, else runs of letters and digits and single other characters;
that rule cuts 5 of 9,809 BC5CDR test mentions where spaCy's English tokeniser cuts 139.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from medtuner.documents import Document, Offsets, Span, find_words
from medtuner.errors import ModelError
from medtuner.flat_rules import FlatRules
from medtuner.labels import LabelSpace
from medtuner.ledger import OUTSIDE_SPACE, Account

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A document as subwords.

    `subwords` [S] are token ids without special tokens; `unit_of` [S] is each subword's unit, or -1 for a subword that
    stands for white space only; `units` are character offsets, in order.
    """

    document: Document
    subwords: IntArray
    unit_of: IntArray
    units: tuple[Offsets, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of one document's subwords that the encoder sees at once.

    It sees subwords ``first:last`` and answers for ``own_first:own_last`` alone; windows overlap in what they see, and
    every subword is owned by exactly one.
    """

    document: int
    first: int
    last: int
    own_first: int
    own_last: int


class SubwordEncoder:
    """A fast tokeniser with the window size that its encoder allows."""

    def __init__(self, tokenizer: Any, *, max_tokens: int, overlap: int) -> None:
        if not tokenizer.is_fast:
            raise ModelError(
                f"{tokenizer.name_or_path}: its tokeniser is not a fast one, so it reports no character offsets. Choose "
                "an encoder with a tokenizer.json."
            )
        self._tokenizer = tokenizer
        probe = tokenizer("a", return_special_tokens_mask=True)
        special = cast(list[int], probe["special_tokens_mask"])
        ids = cast(list[int], probe["input_ids"])
        content = special.index(0)
        self.prefix = np.array(ids[:content], dtype=np.int64)
        self.suffix = np.array(ids[len(special) - special[::-1].index(0) :], dtype=np.int64)
        self.pad_id = int(tokenizer.pad_token_id or 0)
        self.window = max_tokens - len(self.prefix) - len(self.suffix)
        self.overlap = overlap
        if self.window <= 2 * overlap:
            raise ModelError(f"model.max_tokens = {max_tokens} leaves no room beside model.overlap = {overlap}.")

    def encode(self, documents: Sequence[Document]) -> list[Encoded]:
        """Return each document's units and subwords; no text is cut off."""
        if not documents:
            return []
        batch = self._tokenizer(
            [document.text for document in documents],
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            truncation=False,
            verbose=False,
        )
        return [
            _align(document, batch["input_ids"][index], batch["offset_mapping"][index])
            for index, document in enumerate(documents)
        ]


def _align(document: Document, ids: Sequence[int], offsets: Sequence[Offsets]) -> Encoded:
    words = find_words(document)
    touched = [_words_under(document.text, offset, words) for offset in offsets]
    unit_of_word = _glue(len(words), touched)
    units: list[Offsets] = []
    for word, unit in enumerate(unit_of_word):
        if unit == len(units):
            units.append(words[word])
        else:
            units[unit] = (units[unit][0], words[word][1])
    return Encoded(
        document=document,
        subwords=np.array(ids, dtype=np.int64),
        unit_of=np.array([unit_of_word[first] if first < last else -1 for first, last in touched], dtype=np.int64),
        units=tuple(units),
    )


def _words_under(text: str, offset: Offsets, words: Sequence[Offsets]) -> tuple[int, int]:
    """Return the half-open range of words that a subword's characters, white space aside, touch."""
    start, end = offset
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    if start == end:
        return 0, 0
    first = bisect_right(words, start, key=lambda word: word[0]) - 1
    if first < 0 or words[first][1] <= start:
        first += 1
    last = first
    while last < len(words) and words[last][0] < end:
        last += 1
    return first, last


def _glue(num_words: int, touched: Sequence[tuple[int, int]]) -> list[int]:
    """Return the unit of each word: words under one subword share a unit."""
    glued_to_previous = [False] * num_words
    for first, last in touched:
        for word in range(first + 1, last):
            glued_to_previous[word] = True
    units: list[int] = []
    for word in range(num_words):
        units.append(units[-1] if glued_to_previous[word] else (units[-1] + 1 if units else 0))
    return units


def cut_windows(encoded: Encoded, encoder: SubwordEncoder, *, document: int) -> list[Window]:
    """Cover a document with overlapping windows, each subword owned by the window that shows most around it."""
    length, size, overlap = len(encoded.subwords), encoder.window, encoder.overlap
    if length <= size:
        return [Window(document=document, first=0, last=length, own_first=0, own_last=length)]
    windows: list[Window] = []
    step = size - 2 * overlap
    first = own_first = 0
    while True:
        last = min(first + size, length)
        own_last = length if last == length else last - overlap
        windows.append(Window(document=document, first=first, last=last, own_first=own_first, own_last=own_last))
        if last == length:
            return windows
        own_first = own_last
        # The last window is moved back to be full: more context costs nothing.
        first = min(first + step, length - size) if first + step + size > length else first + step


def tag_units(encoded: Encoded, space: LabelSpace, account: Account, rules: FlatRules | None = None) -> IntArray:
    """Return the index of each unit's BIO tag [U], keeping of overlapping mentions what `rules` say (the longest).

    Every mention of the document is entered in `account` as kept or as lost with its reason.
    """
    tags = np.zeros(len(encoded.units), dtype=np.int64)
    document = encoded.document
    account.documents += 1
    account.mentions += len(document.spans)
    starts = {start: unit for unit, (start, _) in enumerate(encoded.units)}
    ends = {end: unit for unit, (_, end) in enumerate(encoded.units)}
    has_subword = np.zeros(len(encoded.units), dtype=bool)
    has_subword[encoded.unit_of[encoded.unit_of >= 0]] = True
    taken = np.zeros(len(encoded.units), dtype=bool)
    rules = rules or FlatRules()
    for span in rules.order(document.spans):
        labels = space.collapse(span.labels)
        start, end = place = rules.place(span) or (span.start, span.end)
        units = slice(starts.get(start, 0), ends.get(end, -1) + 1)
        reason = ""
        if not labels:
            reason = OUTSIDE_SPACE
        elif rules.place(span) != place:
            reason = "it is discontinuous"
        elif start not in starts or end not in ends:
            reason = "it begins or ends inside a word"
        elif not has_subword[units.start]:
            reason = "the tokeniser gives its first word no subword"
        elif taken[units].any():
            reason = (
                "it overlaps a mention as long or longer" if rules.overlap == "longest" else "it overlaps a kept one"
            )
        if reason:
            account.lose(document, span, reason)
            continue
        _count_collapse(span, labels, account, rules)
        label = rules.pick(labels)
        taken[units] = True
        tags[units] = space.tag_index(label) + 1
        tags[units.start] = space.tag_index(label)
        account.kept += 1
        account.kept_types[label] += 1
    return tags


def _count_collapse(span: Span, labels: tuple[str, ...], account: Account, rules: FlatRules) -> None:
    if labels[0] not in span.labels:
        account.collapsed[f"{span.labels[0]} -> {labels[0]}"] += 1
    if len(labels) > 1:
        which = {"first": "first", "frequent": "most frequent", "specific": "most specific"}[rules.several]
        account.collapsed[f"mentions with several types, trained on the {which}"] += 1
    if span.fragments:
        what = "hull" if rules.discontinuous == "hull" else "first fragment"
        account.collapsed[f"discontinuous mentions, trained as their {what}"] += 1


def tag_subwords(encoded: Encoded, unit_tags: IntArray) -> IntArray:
    """Return each subword's tag [S]: B only on the first subword of a unit, -100 (ignored) on white space."""
    if not len(unit_tags):
        return np.full(len(encoded.subwords), -100, dtype=np.int64)
    tags = np.where(encoded.unit_of >= 0, unit_tags[encoded.unit_of], -100)
    is_begin = (tags > 0) & (tags % 2 == 1)
    return cast(IntArray, np.where(is_begin & ~first_subwords(encoded.unit_of), tags + 1, tags))


def first_subwords(unit_of: IntArray) -> npt.NDArray[np.bool_]:
    """Say of each subword [S] whether it is the first of its unit."""
    is_first = np.zeros(len(unit_of), dtype=bool)
    is_first[np.unique(unit_of, return_index=True)[1]] = True
    return is_first & (unit_of >= 0)
