"""How far annotators agree where they annotated the same texts.

    for pair in measure_agreement(documents): print(pair["annotators"], pair["strict"]["micro"]["f1"], pair["kappa"])

Versions of one text (the very same, so that offsets mean the same) are told apart by `annotator`, else by `source`.
F1 takes the first annotator for gold; it is symmetric. Cohen's kappa and Krippendorff's alpha (nominal) are over words,
each labelled by the types of the mentions that cover it, "O" where there are none (Cohen 1960; Krippendorff 2004); both
come from nltk.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from medtuner.documents import Document, Span, find_words
from medtuner.metrics import count_matches, score


def group_versions(documents: Iterable[Document]) -> dict[str, dict[str, Document]]:
    """Return the texts that several annotators have: their versions by annotator."""
    groups: dict[str, dict[str, Document]] = defaultdict(dict)
    for document in documents:
        groups[document.text][annotator_of(document)] = document
    return {text: versions for text, versions in groups.items() if len(versions) > 1}


def annotator_of(document: Document) -> str:
    """Return who annotated a version: source and annotator, as far as they are known."""
    names = (str(document.extra.get(key, "")) for key in ("source", "annotator"))
    return "/".join(name for name in names if name)


def measure_agreement(documents: Iterable[Document]) -> list[dict[str, Any]]:
    """Return one row for each pair of annotators that share texts."""
    groups = group_versions(documents)
    annotators = sorted({name for versions in groups.values() for name in versions})
    rows: list[dict[str, Any]] = []
    for first, second in itertools.combinations(annotators, 2):
        shared = [versions for versions in groups.values() if first in versions and second in versions]
        if shared:
            rows.append(_measure_pair(first, second, shared))
    return rows


def measure_alpha(documents: Iterable[Document]) -> dict[str, Any] | None:
    """Return Krippendorff's alpha over all texts that several annotators have; None for fewer than three annotators.

    Not every annotator need have every text: alpha compares the versions that there are.
    """
    shared = list(group_versions(documents).values())
    annotators = sorted({name for versions in shared for name in versions})
    triples = _label_triples(shared)
    if len(annotators) < 3 or len({label for _, _, label in triples}) < 2:
        return None
    return {"annotators": annotators, "documents": len(shared), "alpha": float(_compare(triples).alpha())}


def _label_triples(shared: Iterable[Mapping[str, Document]]) -> list[tuple[str, str, str]]:
    """Return annotator, word and label, as nltk takes them."""
    return [
        (name, f"{index}:{word}", label)
        for index, versions in enumerate(shared)
        for name, version in versions.items()
        for word, label in enumerate(label_words(version))
    ]


def _measure_pair(first: str, second: str, shared: Sequence[Mapping[str, Document]]) -> dict[str, Any]:
    sides = [[_plain(versions[name], index) for index, versions in enumerate(shared)] for name in (first, second)]
    scores = score(count_matches(*sides), bootstrap=0, seed=0)
    kappa, alpha = _chance_corrected(first, second, shared)
    return {
        "annotators": [first, second],
        "documents": len(shared),
        "mentions": [sum(len(document.spans) for document in side) for side in sides],
        "strict": scores["strict"],
        "overlap": scores["partial"],
        "kappa": kappa,
        "alpha": alpha,
    }


def _plain(document: Document, index: int) -> Document:
    """Return a version under an id that both annotators share."""
    return replace(document, id=str(index), extra={})


def _chance_corrected(
    first: str, second: str, shared: Sequence[Mapping[str, Document]]
) -> tuple[float | None, float | None]:
    """Return kappa and alpha over words; None where only one label occurs, so that chance cannot be corrected for."""
    triples = _label_triples({name: versions[name] for name in (first, second)} for versions in shared)
    if len({label for _, _, label in triples}) < 2:
        return None, None
    task = _compare(triples)
    return float(task.kappa()), float(task.alpha())


def _compare(triples: Sequence[tuple[str, str, str]]) -> Any:
    from nltk.metrics.agreement import AnnotationTask

    return AnnotationTask(data=triples)


def label_words(document: Document) -> list[str]:
    """Return for each word the types of the mentions that cover it, joined by "+", or "O"."""
    labels: list[str] = []
    for start, end in find_words(replace(document, tokens=None)):
        covering = [span for span in document.spans if span.start < end and start < span.end]
        labels.append("+".join(sorted({label for span in covering for label in span.labels})) or "O")
    return labels


def find_disagreements(documents: Iterable[Document]) -> list[Document]:
    """Return each shared text once, with the mentions that not all of its annotators have, to be adjudicated.

    A mention's labels are prefixed by who has it: ``a: T047``.
    """
    found: list[Document] = []
    for versions in group_versions(documents).values():
        holders: dict[tuple[int, int, str], list[str]] = defaultdict(list)
        for name, document in versions.items():
            for key in dict.fromkeys((span.start, span.end, label) for span in document.spans for label in span.labels):
                holders[key].append(name)
        spans = tuple(
            Span(start=start, end=end, labels=(f"{'+'.join(names)}: {label}",))
            for (start, end, label), names in sorted(holders.items())
            if len(names) < len(versions)
        )
        if spans:
            first = next(iter(versions.values()))
            found.append(Document(id=first.id, text=first.text, spans=spans))
    return found
