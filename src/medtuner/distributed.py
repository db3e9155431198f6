"""Ranks: who am I, what do all ranks agree on, and sums over ranks.

The only module besides `slurm` that reads what a launcher (`torchrun`, `srun`) puts into the environment::

    with join_ranks() as ranks:
        if ranks.agree_any(stop_requested): ...     # every rank gets the same answer, so all stop at the same step
        ranks.sum_gradients(parameters)

Alone, a process is rank 0 of 1 and every call is a no-op. gloo serves CPUs, NCCL serves GPUs.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist

from medtuner.errors import MedtunerError

_TIMEOUT_S = 1800


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process among its peers: `rank` of `size`, working on `device`."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Say whether this is the rank that writes files and talks to the user."""
        return self.rank == 0

    def agree_any(self, flag: bool) -> bool:
        """Return whether any rank passed True; all ranks must call it."""
        if self.size == 1:
            return flag
        shared = torch.tensor([int(flag)], device=self.device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return bool(shared.item())

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over ranks; a missing gradient counts as zero.

        One flat buffer in a fixed order, so that sums are bit for bit repeatable. Bucketed overlap as in
        DistributedDataParallel rebuilds its buckets after the first step of each process, which changes the order of
        additions after a resume.
        """
        if self.size == 1:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)

    def sum_numbers(self, *values: float) -> list[float]:
        """Return each value summed over ranks, in double precision."""
        if self.size == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(shared)
        return cast(list[float], shared.tolist())

    def gather(self, item: object) -> list[Any]:
        """Return every rank's picklable item, in rank order, on every rank."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Join the process group that the launcher describes, and leave it at the end."""
    rank, size, local_rank = _read_launcher()
    device = _choose_device(local_rank)
    if size > 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        _init_process_group(backend, rank, size)
    try:
        yield Ranks(rank=rank, size=size, device=device)
    finally:
        if size > 1:
            dist.destroy_process_group()


def launched_rank() -> int:
    """Return this process's rank as the launcher states it, without joining anything."""
    return _read_launcher()[0]


def _read_launcher() -> tuple[int, int, int]:
    """Return rank, number of ranks and rank on this node, from torchrun's or srun's variables."""
    environment = os.environ
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return int(environment["RANK"]), int(environment["WORLD_SIZE"]), int(environment.get("LOCAL_RANK", 0))
    # SLURM_STEP_NUM_TASKS tells a task of `srun` from the bare batch script, which sees the job's variables as well.
    if "SLURM_PROCID" in environment and int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return (
            int(environment["SLURM_PROCID"]),
            int(environment["SLURM_STEP_NUM_TASKS"]),
            int(environment["SLURM_LOCALID"]),
        )
    return 0, 1, 0


def _init_process_group(backend: str, rank: int, size: int) -> None:
    address, port = _rendezvous()
    try:
        dist.init_process_group(
            backend,
            init_method=f"tcp://{address}:{port}",
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=_TIMEOUT_S),
        )
    except dist.DistNetworkError as error:
        raise MedtunerError(
            f"rank {rank}: cannot meet the other ranks at {address}:{port}: {str(error).splitlines()[0]} Another program "
            "may hold that port: set MASTER_PORT to a free one."
        ) from None


def _rendezvous() -> tuple[str, int]:
    """Return where the ranks meet: what `torchrun` says, else the first node of the step and a port of its own.

    The port follows from job and step, below the range that systems give out by themselves, so that jobs that share a node
    do not meet each other.
    """
    environment = os.environ
    address = environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"])
    if "MASTER_PORT" in environment:
        return address, int(environment["MASTER_PORT"])
    job, step = int(environment["SLURM_JOB_ID"]), int(environment.get("SLURM_STEP_ID", 0))
    return address, 10_000 + (7 * job + step) % 22_000


def first_host(nodes: str) -> str:
    """Return the first name of a Slurm node list: ``gpu[007-009,12],fat1`` gives ``gpu007``."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^,\[]*))?", nodes)
    assert match is not None, nodes
    return "".join(part or "" for part in match.groups())


def _choose_device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # srun may show each rank its own GPU only, or all of them.
    count = torch.cuda.device_count()
    if count > 1 and local_rank >= count:
        raise MedtunerError(
            f"this node shows {count} GPUs, but rank {local_rank + 1} started on it: one rank works on one GPU. Set "
            f"slurm.tasks_per_node to 0 or {count}, or give srun --ntasks-per-node={count}."
        )
    return torch.device("cuda", local_rank % count)
