"""What annotated data are like, and what in them deserves a second look.

report = describe(documents, sentences=tokenizer.sentences)
report["ambiguous"][:3], report["forgotten"][:3], report["agreement"]
"""

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from medtuner.agreement import annotator_of, measure_agreement, measure_alpha
from medtuner.documents import Document, find_words
from medtuner.duplicates import TextIndex, normalise

OFTEN = 0.8  # a string annotated in this share of its occurrences is expected to be annotated
_AT_LEAST = 4  # occurrences before a string's habit counts
_SHORTEST = 3  # characters; shorter strings mean too many things


def describe(documents: Sequence[Document], *, sentences: Callable[[str], Iterable[str]]) -> dict[str, Any]:
    """Return counts, lengths, duplicates, ambiguous strings, annotations that look forgotten, and agreement."""
    spans = [(document, span) for document in documents for span in document.spans]
    types = Counter(label for _, span in spans for label in span.labels)
    same = Counter((normalise(document.text), annotator_of(document)) for document in documents)
    return {
        "documents": len(documents),
        "sentences": sum(1 for document in documents for _ in sentences(document.text)),
        "words": sum(len(find_words(document)) for document in documents),
        "mentions": len(spans),
        "mentions_per_type": dict(types.most_common()),
        "several_types": sum(len(span.labels) > 1 for _, span in spans),
        "discontinuous": sum(bool(span.fragments) for _, span in spans),
        "overlapping": sum(map(_count_overlapping, documents)),
        "without_mentions": sum(not document.spans for document in documents),
        "characters": _lengths([len(document.text) for document in documents]),
        "mention_words": _lengths([len(document.text[span.start : span.end].split()) for document, span in spans]),
        "duplicates": sum(count - 1 for count in same.values()),
        "near_duplicates": TextIndex(documents).near_pairs(),
        "ambiguous": _find_ambiguous(documents),
        "forgotten": _find_forgotten(documents),
        "agreement": measure_agreement(documents),
        "agreement_of_all": measure_alpha(documents),
    }


def _lengths(lengths: Sequence[int]) -> dict[str, float]:
    return {"median": statistics.median(lengths or [0]), "longest": max(lengths, default=0)}


def _count_overlapping(document: Document) -> int:
    """Return how many mentions begin before an earlier one of their document has ended."""
    count, reached = 0, 0
    for span in sorted(document.spans, key=lambda span: (span.start, -span.end)):
        count += span.start < reached
        reached = max(reached, span.end)
    return count


def _find_ambiguous(documents: Sequence[Document]) -> list[dict[str, Any]]:
    """Return strings that bear different types at different places, the most frequent first."""
    types: dict[str, Counter[str]] = defaultdict(Counter)
    for document in documents:
        for span in document.spans:
            types[_surface(document.text[span.start : span.end])]["+".join(sorted(span.labels))] += 1
    rows = [(string, counts) for string, counts in types.items() if len(counts) > 1]
    rows.sort(key=lambda row: (-row[1].total(), row[0]))
    return [{"string": string, "types": dict(counts.most_common())} for string, counts in rows]


def _find_forgotten(documents: Sequence[Document]) -> list[dict[str, Any]]:
    """Return places where a string that is annotated nearly always is not, by document and offsets."""
    annotated = Counter(
        _surface(document.text[span.start : span.end]) for document in documents for span in document.spans
    )
    often = {string for string, count in annotated.items() if count >= _AT_LEAST and len(string) >= _SHORTEST}
    longest = max((len(string.split()) for string in often), default=0)
    bare: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for document in documents:
        for start, end, string in _occurrences(document, often, longest):
            if not any(span.start < end and start < span.end for span in document.spans):
                bare[string].append({"document": document.id, "start": start, "end": end})
    return [
        {"string": string, "annotated": annotated[string], "places": places}
        for string, places in sorted(bare.items(), key=lambda row: (-annotated[row[0]], row[0]))
        if annotated[string] / (annotated[string] + len(places)) >= OFTEN
    ]


def _occurrences(document: Document, strings: set[str], longest: int) -> Iterable[tuple[int, int, str]]:
    """Yield where strings stand as whole words."""
    words = [match.span() for match in re.finditer(r"\S+", document.text)]
    trimmed = [_trim(document.text, place) for place in words]
    for first in range(len(words)):
        for last in range(first, min(len(words), first + longest)):
            start, end = trimmed[first][0], trimmed[last][1]
            string = _surface(document.text[start:end])
            if string in strings:
                yield start, end, string


def _trim(text: str, place: tuple[int, int]) -> tuple[int, int]:
    start, end = place
    while start < end and text[start] in "([\"'":
        start += 1
    while end > start and text[end - 1] in ".,;:)]\"'?!":
        end -= 1
    return start, end


def _surface(text: str) -> str:
    return normalise(text).lower()
