"""The processes of one job: torchrun starts W of them, ranks with mazes and replays of their own.

The work is torch.distributed's. A process on its own gets back whatever it hands to a function
here, and needs no torch.distributed. Collective calls must be made by all ranks, in one order.
"""

from __future__ import annotations  # no torch.distributed, no Store

import os
import signal
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from train import cli
from train.config import require
from train.machine.device import choose_device

T = TypeVar("T")


def join(device: str) -> torch.device:
    """Join the job that torchrun started, if it did; returns this process's device.

    Raises:
        ValueError: there is no such device, torchrun's environment variables are not all there, or
            the processes do not meet in half an hour.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes == "1":
        return choose_device(device)
    for name in ("WORLD_SIZE", "RANK", "MASTER_PORT"):
        value = os.environ.get(name, "0")
        require(name, value, value.isdecimal(), "a whole number, which torchrun sets")
    require("WORLD_SIZE", processes, dist.is_available(), "1: this torch is built for one process")
    known = ("auto", "cpu", "cuda")
    require("device", device, device in known, "auto, cpu or cuda, of which every process gets one")
    chosen = choose_device(device)
    if chosen.type == "cuda":
        chosen = choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    end_at_once = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_DFL)
    try:
        with cli.handling(end_at_once):  # torch waits in C++, where no handler of ours is called
            store, rank, ranks = next(dist.rendezvous("env://"))
            store = _of_this_start(store)
            dist.init_process_group(backend, store=store, rank=rank, world_size=ranks)
    except dist.DistError as error:
        where = ":".join(os.environ.get(x, "") for x in ("MASTER_ADDR", "MASTER_PORT"))
        raise ValueError(
            f"the {processes} processes of WORLD_SIZE did not meet at {where} ({error}): expected "
            "torchrun to start them all, or WORLD_SIZE unset"
        ) from None
    return chosen


def _of_this_start(store: dist.Store) -> dist.Store:
    """torchrun keeps its store when it starts a job again: addresses of the dead must not be read.

    Its counts of starts may differ between machines; there it must be told to make a new store.
    """
    if os.environ["WORLD_SIZE"] != os.environ.get("LOCAL_WORLD_SIZE"):
        return store
    return dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def leave() -> None:
    if _is_joined():
        dist.destroy_process_group()


def may_restart() -> bool:
    """Whether torchrun would start the job again after a failure (--max-restarts)."""
    return os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, 0 to world() - 1; 0 writes."""
    return dist.get_rank() if _is_joined() else 0


def world() -> int:
    """Processes in the job."""
    return dist.get_world_size() if _is_joined() else 1


def seed_of(rank: int, seed: int) -> int:
    """A seed for what a rank draws for itself; rank 0's is the seed itself.

    32 bits, as a CPU's generator uses no more.
    """
    return int(np.random.SeedSequence((seed, rank)).generate_state(1)[0]) if rank else seed


def share(n: int) -> tuple[int, int]:
    """This rank's part of n things: where it begins, and how many."""
    begin, end = (n * r // world() for r in (rank(), rank() + 1))
    return begin, end - begin


def all_reduce_mean(x: Tensor) -> None:
    """Replace x by its mean over the ranks, in place."""
    if world() > 1:
        dist.all_reduce(x)
        x /= world()


def broadcast(value: T) -> T:
    """Rank 0's value, on all ranks."""
    if world() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def all_reduce_max(x: Tensor) -> Tensor:
    """The largest of the ranks' values, elementwise."""
    return _reduced(x, "MAX")


def all_reduce_min(x: Tensor) -> Tensor:
    """The smallest of the ranks' values, elementwise."""
    return _reduced(x, "MIN")


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum over the ranks, elementwise."""
    return _reduced(x, "SUM")


def _reduced(x: Tensor, operation: str) -> Tensor:
    if world() == 1:
        return x
    x = x.clone()
    dist.all_reduce(x, getattr(dist.ReduceOp, operation))
    return x


def all_gather(x: Tensor) -> Tensor:
    """All ranks' rows [n_r, ...], one after the other, on the CPU."""
    if world() == 1:
        return x
    parts: list[Tensor] = [x] * world()
    dist.all_gather_object(parts, x.cpu())
    return torch.cat(parts)
