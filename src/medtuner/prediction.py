"""Encoded documents in, documents with predicted spans out: one batched pass of a model.

    predictor = Predictor(model=model, encoder=encoder, space=space, device=device, precision=torch.bfloat16, ...)
    predicted = predictor.predict(documents)

Memory holds the log-probabilities of one group of documents at a time, never those of a whole corpus. Where the model is
in training, its mode is put back afterwards.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from medtuner.alignment import Encoded, SubwordEncoder
from medtuner.batches import BatchItem, collate, cut_by_budget, make_items
from medtuner.decoding import FloatArray, decode_document
from medtuner.distributed import Ranks
from medtuner.documents import Document
from medtuner.labels import LabelSpace

# What is in memory together: few long documents, or many short ones.
_GROUP_DOCUMENTS, _GROUP_CHARACTERS = 512, 200_000


def _go_on() -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """A model with all it takes to annotate documents.

    `continuation` is the weight of a word's later subwords, `tokens_per_batch` counts padding.
    """

    model: nn.Module
    encoder: SubwordEncoder
    space: LabelSpace
    device: torch.device
    precision: torch.dtype
    continuation: float
    tokens_per_batch: int = 8192

    def predict(
        self, documents: Sequence[Document], *, should_stop: Callable[[], bool] = _go_on
    ) -> list[Document] | None:
        """Return the documents with predicted spans in place of their own; None when asked to stop midway."""
        predicted: list[Document] = []
        for group in self.predict_groups(documents):
            predicted.extend(group)
            if should_stop():
                return None
        return predicted

    def predict_groups(self, documents: Sequence[Document]) -> Iterator[list[Document]]:
        """Yield predicted documents group by group, in order."""
        for group in cut_groups(documents):
            encoded = self.encoder.encode(group)
            log_probs = self._run(encoded)
            yield [
                decode_document(document, rows, self.space, continuation=self.continuation)
                for document, rows in zip(encoded, log_probs, strict=True)
            ]

    def _run(self, encoded: Sequence[Encoded]) -> list[FloatArray]:
        """Return the log-probabilities [S, C] of each document's subwords."""
        num_tags = len(self.space.tags)
        results = [np.zeros((len(e.subwords), num_tags), dtype=np.float32) for e in encoded]
        items = make_items(encoded, self.encoder)
        lengths = np.array([len(item.ids) for item in items], dtype=np.int64)
        by_length: list[int] = np.argsort(lengths, kind="stable").tolist()
        was_training = self.model.training
        self.model.eval()
        try:
            for batch in cut_by_budget(by_length, lengths, self.tokens_per_batch):
                self._run_batch([items[index] for index in batch], results)
        finally:
            self.model.train(was_training)
        return results

    def _run_batch(self, items: Sequence[BatchItem], results: Sequence[FloatArray]) -> None:
        tensors = collate(items, pad_id=self.encoder.pad_id, device=self.device)
        with torch.inference_mode(), autocast(self.device, self.precision):
            logits_BTC: Any = self.model(input_ids=tensors.ids_BT, attention_mask=tensors.mask_BT).logits
            log_probs_BTC: FloatArray = logits_BTC.float().log_softmax(-1).cpu().numpy()
        shift = len(self.encoder.prefix)
        for item, log_probs_TC in zip(items, log_probs_BTC, strict=True):
            window = item.window
            own = slice(window.own_first, window.own_last)
            first = shift + window.own_first - window.first
            results[window.document][own] = log_probs_TC[first : first + window.own_last - window.own_first]


def cut_groups(documents: Sequence[Document]) -> Iterator[list[Document]]:
    """Yield consecutive documents in groups of bounded number and length; a longer document is a group of its own."""
    group: list[Document] = []
    size = 0
    for document in documents:
        if group and (len(group) == _GROUP_DOCUMENTS or size + len(document.text) > _GROUP_CHARACTERS):
            yield group
            group, size = [], 0
        group.append(document)
        size += len(document.text)
    if group:
        yield group


def predict_in_shares(
    predictor: Predictor, documents: Sequence[Document], *, ranks: Ranks, should_stop: Callable[[], bool]
) -> list[Document] | None:
    """Let each rank predict its share and return all predictions on every rank; None when any rank was asked to stop."""
    predicted = predictor.predict(documents[ranks.rank :: ranks.size], should_stop=should_stop)
    if ranks.agree_any(predicted is None):
        return None
    return [document for part in ranks.gather(predicted) for document in part]


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Return the autocast context of a precision; fp32 switches it off."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16)
