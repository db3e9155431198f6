import pytest
import torch

from medtuner.distributed import join_ranks, launched_rank


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "SLURM_PROCID",
        "SLURM_STEP_NUM_TASKS",
        "MASTER_ADDR",
        "MASTER_PORT",
    ):
        monkeypatch.delenv(name, raising=False)


def test_alone_every_call_is_a_no_op() -> None:
    with join_ranks() as ranks:
        assert (ranks.rank, ranks.size, ranks.is_main) == (0, 1, True)
        assert ranks.agree_any(True)
        assert not ranks.agree_any(False)
        assert ranks.gather("x") == ["x"]
        assert ranks.sum_numbers(1.5, 2) == [1.5, 2]
        parameter = torch.nn.Parameter(torch.ones(2))
        ranks.sum_gradients([parameter])
        assert parameter.grad is None


def test_torchrun_and_srun_say_which_rank_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert launched_rank() == 0, "a batch script without srun is one process"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    assert launched_rank() == 3
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launched_rank() == 2
