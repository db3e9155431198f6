"""Words with tags (`tokens` and `ner_tags`) turned into documents: BIO, BIOES, BILOU and bare tags.

    report = TagReport()
    document = document_from_tags("row-1", ["Aspirin", "helps"], ["B-T103", "O"], scheme="BIO", orphans="begin", ...)

The text of such a document is its words joined by one space; `tokens` keeps the words' offsets.

Declared rules. The scheme is read off the whole file: `E-`/`S-` mean BIOES, `L-`/`U-` mean BILOU, `B-`/`I-` mean BIO (IOB1
too), tags without any prefix are bare (neighbours with one tag are one mention). An orphan, that is a tag inside a mention
that nothing began (`I-X` after `O` or after another type), begins a mention (`begin`, the default), is left out (`drop`) or
stops the reading (`refuse`). Everything mended is counted.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from medtuner.corpora.unwritten import count_unwritten
from medtuner.documents import SENTENCES, Document, Offsets, Span, find_words
from medtuner.errors import DataError

Scheme = Literal["BIO", "BIOES", "BILOU", "bare"]
Orphans = Literal["begin", "drop", "refuse"]

_SOLID = re.compile(r"\S+")
_PREFIXES = frozenset("BIESLU")


@dataclass(slots=True, kw_only=True)
class TagReport:
    """What reading tags met: the scheme, and how often a rule had to mend a tag."""

    scheme: Scheme = "BIO"
    mended: Counter[str] = field(default_factory=Counter)


def detect_scheme(tag_rows: Iterable[Sequence[str]]) -> Scheme:
    """Return the scheme that all tags of a file together show."""
    prefixes = {_split_tag(tag)[0] for tags in tag_rows for tag in set(tags)}
    if prefixes & {"E", "S"}:
        return "BIOES"
    if prefixes & {"L", "U"}:
        return "BILOU"
    return "BIO" if prefixes & {"B", "I"} else "bare"


def _split_tag(tag: str) -> tuple[str, str]:
    """Return prefix and type: ("B", "T047"), ("O", "") or ("", "T047") for a bare tag."""
    if tag == "O":
        return "O", ""
    if len(tag) > 2 and tag[1] == "-" and tag[0] in _PREFIXES:
        return tag[0], tag[2:]
    return "", tag


def document_from_tags(
    identifier: str, words: Sequence[str], tags: Sequence[str], *, report: TagReport, orphans: Orphans, where: str
) -> Document:
    """Join words by spaces and turn their tags into spans.

    Raises `DataError` when words and tags differ in number, a word is empty, or an orphan is to be refused.
    """
    if len(words) != len(tags):
        raise DataError(f"{where}: {len(words)} tokens but {len(tags)} ner_tags; each token needs one tag.")
    tokens: list[Offsets] = []
    position = 0
    for index, word in enumerate(words):
        if not word or word.isspace():
            raise DataError(f"{where}: token {index} is empty. Remove it and its tag.")
        tokens.append((position, position + len(word)))
        position += len(word) + 1
    spans = tuple(
        Span(start=tokens[first][0], end=tokens[last][1], labels=(label,))
        for first, last, label in spans_from_tags(tags, report=report, orphans=orphans, where=where)
    )
    return Document(id=identifier, text=" ".join(words), spans=spans, tokens=tuple(tokens))


def spans_from_tags(
    tags: Sequence[str], *, report: TagReport, orphans: Orphans = "begin", where: str = "tags"
) -> list[tuple[int, int, str]]:
    """Return ``(first word, last word, type)`` of each mention in a tag sequence."""
    spans: list[tuple[int, int, str]] = []
    open_label = ""  # the type of the mention that the next word may continue; "" when none is open
    for index, tag in enumerate(tags):
        prefix, label = _split_tag(tag)
        if prefix == "":
            prefix, label = _read_bare(label, open_label, report)
        begins = prefix in "BSU"
        if prefix in "IEL" and label != open_label:
            _count_orphan(tag, index, orphans, report, where)
            begins = orphans == "begin"
            if not begins:
                open_label = ""
                continue
        if begins:
            spans.append((index, index, label))
        elif prefix != "O":
            spans[-1] = (spans[-1][0], index, label)
        open_label = label if prefix in "BI" else ""
    return spans


def _read_bare(label: str, open_label: str, report: TagReport) -> tuple[str, str]:
    """Read a tag without prefix as the beginning of a mention, or as its continuation."""
    if not label:
        return "O", ""
    if report.scheme != "bare":
        report.mended["bare tag among prefixed ones"] += 1
    return ("I" if label == open_label else "B"), label


def _count_orphan(tag: str, index: int, orphans: Orphans, report: TagReport, where: str) -> None:
    if orphans == "refuse":
        raise DataError(
            f'{where}: token {index} has {tag} but no mention of that type is open. Mend it, or set data.orphans = "begin" '
            'or "drop".'
        )
    report.mended[f"orphan {tag[0]}- tag: {'began a mention' if orphans == 'begin' else 'left out'}"] += 1


def rows_from_document(document: Document, left_out: Counter[str]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield id, words and BIO tags of each sentence that the document names, else of its whole text.

    What flat tags cannot hold is counted in `left_out`.

    Of mentions that overlap the longest stays (of equally long ones the first); of its labels the first. A word is cut
    where a mention begins or ends inside it.
    """
    kept: list[Span] = []
    for span in sorted(document.spans, key=lambda span: (span.start - span.end, span.start)):
        if any(span.start < other.end and other.start < span.end for other in kept):
            left_out["mention that overlaps a longer one"] += 1
            continue
        kept.append(span)
        left_out["further label of a mention"] += len(span.labels) - 1
    borders = {border for span in kept for border in (span.start, span.end)}
    places = [piece for word in _solid_words(document) for piece in _cut_at(word, borders)]
    tags = ["O"] * len(places)
    for span in kept:
        inside = [index for index, (start, end) in enumerate(places) if span.start <= start and end <= span.end]
        if not inside:
            left_out["mention without a word"] += 1
            continue
        for index in inside:
            tags[index] = f"{'B' if index == inside[0] else 'I'}-{span.labels[0]}"
    words = [document.text[start:end] for start, end in places]
    left_out["text whose words do not stand one blank apart"] += document.text != " ".join(words)
    count_unwritten(document, left_out, document_keys=(SENTENCES,), holds=("tokens",))
    if not words:
        left_out["document without a word"] += 1
        return
    starts = [start for start, _ in places]
    cuts = [bisect_left(starts, begin) for begin, _ in document.extra.get(SENTENCES, ())][1:]
    left_out["mention divided by a sentence border"] += sum(
        tags[cut].startswith("I-") for cut in cuts if cut < len(tags)
    )
    left_out["white space at the border of a mention"] += sum(
        document.text[span.start].isspace() or document.text[span.end - 1].isspace() for span in kept
    )
    for number, (first, last) in enumerate(pairwise([0, *cuts, len(words)])):
        name = f"{document.id}/{number}" if cuts else document.id
        if first < last:
            yield name, words[first:last], tags[first:last]


def _solid_words(document: Document) -> Iterator[Offsets]:
    """Yield words; one with white space inside it is several."""
    for start, end in find_words(document):
        yield from ((start + found.start(), start + found.end()) for found in _SOLID.finditer(document.text[start:end]))


def _cut_at(word: Offsets, borders: set[int]) -> list[Offsets]:
    cuts = [word[0], *sorted(border for border in borders if word[0] < border < word[1]), word[1]]
    return list(pairwise(cuts))
