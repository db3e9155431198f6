import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medtuner.alignment import Window
from medtuner.batches import IGNORED, BatchItem, collate, derive_seed, plan_epoch, split_batch

LENGTHS = st.lists(st.integers(3, 60), min_size=1, max_size=80)


def items(lengths: list[int]) -> list[BatchItem]:
    return [
        BatchItem(
            window=Window(document=i, first=0, last=n - 2, own_first=0, own_last=n - 2),
            ids=np.full(n, i + 1),
            tags=np.array([IGNORED, *[0] * (n - 2), IGNORED]),
            weights=np.array([0, *[1] * (n - 2), 0], dtype=np.float32),
        )
        for i, n in enumerate(lengths)
    ]


@settings(deadline=None)
@given(LENGTHS, st.integers(30, 300), st.integers(0, 5))
def test_an_epoch_holds_every_window_once_within_the_budget(lengths: list[int], budget: int, epoch: int) -> None:
    windows = items(lengths)
    plan = plan_epoch(windows, tokens_per_batch=budget, seed=1, epoch=epoch)
    assert sorted(index for batch in plan for index in batch) == list(range(len(windows)))
    for batch in plan:
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= budget
    assert plan == plan_epoch(windows, tokens_per_batch=budget, seed=1, epoch=epoch)


def test_order_changes_with_seed_and_epoch() -> None:
    windows = items([10] * 50)
    plans = [plan_epoch(windows, tokens_per_batch=50, seed=s, epoch=e) for s in (1, 2) for e in (0, 1)]
    assert len({str(plan) for plan in plans}) == 4


@settings(deadline=None)
@given(LENGTHS, st.integers(0, 80), st.integers(1, 4))
def test_parts_are_the_batch_whatever_the_ranks(lengths: list[int], tokens_per_part: int, size: int) -> None:
    windows = items(sorted(lengths))
    batch = list(range(len(windows)))
    parts = split_batch(batch, windows, tokens_per_part=tokens_per_part, size=size)
    assert [index for part in parts for index in part] == batch
    if tokens_per_part:
        assert parts == split_batch(batch, windows, tokens_per_part=tokens_per_part, size=size + 1)
        for part in parts:
            assert len(part) <= 1 or max(len(windows[i].ids) for i in part) * len(part) <= tokens_per_part
    else:
        assert len(parts) == size


def test_padding_is_masked_and_ignored() -> None:
    tensors = collate(items([3, 5]), pad_id=9, device=torch.device("cpu"))
    assert tensors.ids_BT.tolist() == [[1, 1, 1, 9, 9], [2, 2, 2, 2, 2]]
    assert tensors.mask_BT.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert tensors.tags_BT.tolist() == [[IGNORED, 0, IGNORED, IGNORED, IGNORED], [IGNORED, 0, 0, 0, IGNORED]]


def test_real_medmentions_batches_are_nearly_free_of_padding(starter_tokenizer) -> None:
    from medtuner.alignment import SubwordEncoder
    from medtuner.batches import make_items
    from medtuner.corpora import load_corpus

    encoder = SubwordEncoder(starter_tokenizer, max_tokens=512, overlap=64)
    windows = make_items(encoder.encode(load_corpus("medmentions-zs").documents[:4000]), encoder)
    plan = plan_epoch(windows, tokens_per_batch=1024, seed=1, epoch=0)
    real = sum(len(window.ids) for window in windows)
    padded = sum(len(batch) * max(len(windows[i].ids) for i in batch) for batch in plan)
    assert padded / real < 1.03


def test_seeds_differ() -> None:
    seeds = {derive_seed(13, step, part) for step in range(50) for part in range(4)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
