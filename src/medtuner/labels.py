"""The label space of a run: which types the model predicts, in BIO.

    space = choose_label_space("st21pv", train_documents)
    space.tags                                  # ("O", "B-T005", "I-T005", ...)
    space.collapse(("T047",))                   # ("T038",): Disease or Syndrome under its nearest ancestor in the space

Spaces: `train` (the types seen in training, any strings), `st21pv` (21), `full` (127 TUIs), `groups` (15), or a list of
types. A label outside an explicit space becomes its nearest ancestor inside it, as MedMentions ST21pv itself was made; one
without such an ancestor is outside the space and is counted by the caller.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medtuner import semantic_network
from medtuner.documents import Document
from medtuner.errors import DataError, nearest

ANNOTATED_TYPES = "annotated_types"
BoolArray = npt.NDArray[np.bool_]
_NAMED_SPACES = ("train", "st21pv", "full", "groups")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSpace:
    """The types a model predicts, in a fixed order; `kind` says how labels are brought into the space."""

    kind: str
    types: tuple[str, ...]

    @property
    def tags(self) -> tuple[str, ...]:
        """Return the BIO tags: O, then B and I of each type (Ramshaw & Marcus 1995, as IOB2)."""
        return ("O", *(f"{prefix}-{name}" for name in self.types for prefix in "BI"))

    def tag_index(self, label: str) -> int:
        """Return the index of a type's B tag; its I tag follows."""
        return 1 + 2 * self._positions()[label]

    def _positions(self) -> dict[str, int]:
        return _positions(self.types)

    def collapse(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Bring labels into the space, each at most once; labels outside it are left out."""
        found = (_collapse_one(self, label) for label in labels)
        return tuple(dict.fromkeys(label for label in found if label))


@functools.cache
def _positions(types: tuple[str, ...]) -> dict[str, int]:
    return {name: index for index, name in enumerate(types)}


@functools.cache
def _collapse_one(space: LabelSpace, label: str) -> str:
    if label in _positions(space.types):
        return label
    if space.kind == "train":
        return ""
    tui = semantic_network.find(label)
    if space.kind == "groups":
        return semantic_network.semantic_types()[tui].group
    return next((up for up in (tui, *semantic_network.ancestors(tui)) if up in space.types), "")


def choose_label_space(space: str | Sequence[str], documents: Iterable[Document]) -> LabelSpace:
    """Return the label space that `labels.space` asks for; `documents` are those of training.

    Raises `DataError` when training documents carry no mention (`train`), or a listed type does not exist.
    """
    if not isinstance(space, str):
        return LabelSpace(kind="list", types=_read_list(space))
    if space == "train":
        seen = {label for document in documents for span in document.spans for label in span.labels}
        if not seen:
            raise DataError('labels.space = "train": the training documents have no annotated mention to learn from.')
        return LabelSpace(kind="train", types=tuple(sorted(seen)))
    if space == "st21pv":
        return LabelSpace(kind=space, types=tuple(semantic_network.ST21PV))
    if space == "full":
        return LabelSpace(kind=space, types=tuple(sorted(semantic_network.current_types())))
    if space == "groups":
        return LabelSpace(kind=space, types=tuple(sorted(semantic_network.groups())))
    raise DataError(
        f"labels.space = {space!r} is no label space.{nearest(space, _NAMED_SPACES)} Valid: {', '.join(_NAMED_SPACES)}, "
        'or a list such as ["T047", "T103"].'
    )


def _read_list(names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        raise DataError("labels.space is an empty list; name at least one type.")
    return tuple(dict.fromkeys(semantic_network.find(name) for name in names))


def unknown_tags(space: LabelSpace, document: Document) -> BoolArray | None:
    """Return the mask [N] of tags whose types the document's annotators did not look for; None when they looked for all.

    The key `annotated_types` of a document lists what its source annotated; without it that is every type.
    """
    declared = document.extra.get(ANNOTATED_TYPES)
    if declared is None:
        return None
    if not isinstance(declared, list) or not all(isinstance(name, str) for name in declared):
        raise DataError(f"document {document.id}: {ANNOTATED_TYPES!r} must be a list of types.")
    return _mask_unknown(space, tuple(sorted(set(declared))))


@functools.cache
def _mask_unknown(space: LabelSpace, annotated: tuple[str, ...]) -> BoolArray | None:
    # A type of the space is known only if it was annotated as such: one that stands for many in a coarser space would be
    # known in part, and its absence would still say nothing.
    mask = np.array([tag != "O" and tag[2:] not in annotated for tag in space.tags])
    return mask if mask.any() else None


def check_labels(space: LabelSpace, documents: Iterable[Document]) -> None:
    """Raise `DataError`, naming the document, at the first label that an explicit space cannot read."""
    for document in documents:
        for span in document.spans:
            try:
                space.collapse(span.labels)
            except DataError as error:
                raise DataError(f"document {document.id}: span {span.start}-{span.end}: {error}") from None
