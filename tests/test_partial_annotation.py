"""Corpora that annotate different types: what a source did not look for is not evidence against it."""

import pytest
import torch

from medtuner.batches import IGNORED
from medtuner.documents import Document
from medtuner.errors import DataError
from medtuner.labels import LabelSpace, unknown_tags
from medtuner.training import tag_losses

SPACE = LabelSpace(kind="train", types=("T047", "T121"))


def test_what_a_source_did_not_annotate_is_unknown() -> None:
    document = Document(id="1", text="x", extra={"annotated_types": ["T047", "T999"]})
    mask = unknown_tags(SPACE, document)
    assert mask is not None
    assert [tag for tag, unknown in zip(SPACE.tags, mask, strict=True) if unknown] == ["B-T121", "I-T121"]
    assert unknown_tags(SPACE, Document(id="1", text="x")) is None
    assert unknown_tags(SPACE, Document(id="1", text="x", extra={"annotated_types": ["T047", "T121"]})) is None
    with pytest.raises(DataError, match="must be a list"):
        unknown_tags(SPACE, Document(id="1", text="x", extra={"annotated_types": "T047"}))


def test_the_loss_is_the_sum_of_probabilities_that_o_may_stand_for() -> None:
    torch.manual_seed(3)
    logits = torch.randn(2, 4, 5, requires_grad=True)
    tags = torch.tensor([[0, 1, 2, 0], [0, 3, IGNORED, 0]])
    unknown = torch.tensor([[False, False, False, True, True], [False] * 5])
    losses = tag_losses(logits, tags, unknown)
    probabilities = logits.detach().softmax(-1)
    assert losses[0, 0].item() == pytest.approx(float(-torch.log(probabilities[0, 0, [0, 3, 4]].sum())), rel=1e-5)
    assert losses[0, 1].item() == pytest.approx(float(-torch.log(probabilities[0, 1, 1])), rel=1e-5)
    plain = tag_losses(logits, tags, None)
    assert torch.allclose(losses[1], plain[1])
    assert losses[1, 2].item() == 0
    losses.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[0, 0, 3:] < 0).all(), "an unknown type is not pushed down where the tag is O"
