"""Token-budget batches of windows of like length, in an order that the seed and the step alone decide.

    items = [BatchItem(...), ...]
    batches = plan_epoch(items, tokens_per_batch=1024, seed=13, epoch=0)     # lists of indices into items
    parts = split_batch(batches[0], items, tokens_per_part=0, size=2)        # what each rank works on
    tensors = collate([items[i] for i in parts[0]], pad_id=0, device=device)

Batches of like lengths hold 1 to 2% padding on MedMentions sentences, where random batches of 8 hold 50%. Since order and
random numbers follow from (seed, epoch) and (seed, step, part), the position of a run is its step number.

Array legend: B windows of a batch, T subwords with special tokens, N tags.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from medtuner.alignment import Encoded, SubwordEncoder, Window, cut_windows, first_subwords

IGNORED = -100  # the target that cross entropy leaves out
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchItem:
    """One window ready for the encoder: token ids [T] with special tokens, tags [T] and their weights in the loss [T].

    What the window does not own, and special tokens, have the tag `IGNORED` and weight 0. `unknown` [N] marks the tags of
    types that the document's annotators did not look for: where the tag is O, they are not ruled out.
    """

    window: Window
    ids: IntArray
    tags: IntArray
    weights: FloatArray
    unknown: BoolArray | None = None

    @property
    def weight(self) -> float:
        """Return the summed weight of the window's labelled subwords."""
        return float(self.weights.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """A padded batch: token ids, attention mask, tags and weights, each [B, T]; unknown tags [B, N] where there are any."""

    ids_BT: torch.Tensor
    mask_BT: torch.Tensor
    tags_BT: torch.Tensor
    weights_BT: torch.Tensor
    unknown_BN: torch.Tensor | None


def make_items(
    encoded: Sequence[Encoded],
    encoder: SubwordEncoder,
    subword_tags: Sequence[IntArray] | None = None,
    *,
    continuation: float = 1.0,
    unknown: Sequence[BoolArray | None] | None = None,
) -> list[BatchItem]:
    """Cut documents into windows with special tokens; without `subword_tags` every tag is `IGNORED`.

    `unknown` holds for each document the mask of tags that its annotators did not look for, or None.
    The first subword of a unit has weight 1 in the loss, each later one weight `continuation`.
    """
    items: list[BatchItem] = []
    for index, document in enumerate(encoded):
        for window in cut_windows(document, encoder, document=index):
            ids = np.concatenate([encoder.prefix, document.subwords[window.first : window.last], encoder.suffix])
            tags = np.full(len(ids), IGNORED, dtype=np.int64)
            weights = np.zeros(len(ids), dtype=np.float32)
            if subword_tags is not None:
                shift = len(encoder.prefix) - window.first
                own = slice(window.own_first + shift, window.own_last + shift)
                tags[own] = subword_tags[index][window.own_first : window.own_last]
                is_first = first_subwords(document.unit_of)[window.own_first : window.own_last]
                weights[own] = np.where(tags[own] == IGNORED, 0, np.where(is_first, 1, continuation))
            mask = unknown[index] if unknown is not None else None
            items.append(BatchItem(window=window, ids=ids, tags=tags, weights=weights, unknown=mask))
    return items


def plan_epoch(items: Sequence[BatchItem], *, tokens_per_batch: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the batches of an epoch: at most `tokens_per_batch` tokens each, padding included, in random order.

    A window longer than the budget makes a batch of its own.
    """
    generator = np.random.default_rng([seed, epoch])
    shuffled = generator.permutation(len(items))
    lengths = np.array([len(item.ids) for item in items], dtype=np.int64)
    by_length = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    batches = cut_by_budget(by_length.tolist(), lengths, tokens_per_batch)
    return [batches[index] for index in generator.permutation(len(batches))]


def cut_by_budget(by_length: Sequence[int], lengths: IntArray, budget: int) -> list[list[int]]:
    """Cut indices, sorted by rising length, into runs whose padded size stays within the budget."""
    batches: list[list[int]] = []
    for index in by_length:
        if batches and lengths[index] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def split_batch(
    batch: Sequence[int], items: Sequence[BatchItem], *, tokens_per_part: int, size: int
) -> list[list[int]]:
    """Divide a global batch into parts; rank r takes parts r, r + size, and so on.

    With `tokens_per_part` the division does not depend on the number of ranks, so neither do random numbers and sums;
    without it there is one part a rank.
    """
    lengths = np.array([len(items[index].ids) for index in batch], dtype=np.int64)
    if tokens_per_part:
        parts = cut_by_budget(range(len(batch)), lengths, tokens_per_part)
        return [[batch[position] for position in part] for part in parts]
    bounds = np.linspace(0, len(batch), size + 1).round().astype(int)
    return [list(batch[first:last]) for first, last in itertools.pairwise(bounds)]


def collate(items: Sequence[BatchItem], *, pad_id: int, device: torch.device) -> Tensors:
    """Pad windows on the right to the longest and move them to the device."""
    shape = (len(items), max(len(item.ids) for item in items))
    ids_BT = np.full(shape, pad_id, dtype=np.int64)
    mask_BT = np.zeros(shape, dtype=np.int64)
    tags_BT = np.full(shape, IGNORED, dtype=np.int64)
    weights_BT = np.zeros(shape, dtype=np.float32)
    for row, item in enumerate(items):
        ids_BT[row, : len(item.ids)] = item.ids
        mask_BT[row, : len(item.ids)] = 1
        tags_BT[row, : len(item.ids)] = item.tags
        weights_BT[row, : len(item.ids)] = item.weights
    ids, mask, tags, weights = (torch.from_numpy(array).to(device) for array in (ids_BT, mask_BT, tags_BT, weights_BT))
    return Tensors(ids_BT=ids, mask_BT=mask, tags_BT=tags, weights_BT=weights, unknown_BN=_stack_unknown(items, device))


def _stack_unknown(items: Sequence[BatchItem], device: torch.device) -> torch.Tensor | None:
    known = [item.unknown for item in items if item.unknown is not None]
    if not known:
        return None
    nothing = np.zeros_like(known[0])
    rows = [nothing if item.unknown is None else item.unknown for item in items]
    return torch.from_numpy(np.stack(rows)).to(device)


def derive_seed(*parts: int) -> int:
    """Mix whole numbers (a run's seed, a step, a part) into one seed for torch."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
