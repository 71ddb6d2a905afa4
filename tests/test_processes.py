"""The simulator and the engine in the children of a process that uses them, whichever way those
start, and whatever its other threads are doing then."""

import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
import torch

from envs import MazeBatch, MazeSpec
from hrm_fast import HRM, HRMConfig

SPEC = MazeSpec(map="corridors")
CONFIG = HRMConfig(
    cells=SPEC.cells, columns=SPEC.cols, width=32, h_layers=1, l_layers=1, segments=2, kernels="cpu"
)
SECONDS = 60  # a child that has not ended by then hangs


def built() -> tuple[MazeBatch, HRM]:
    """Mazes and a model, each with three threads."""
    torch.manual_seed(0)
    hrm = HRM(CONFIG)
    engine = hrm._fused()
    assert engine is not None
    engine.threads = 3
    return MazeBatch(SPEC, 96, seed=5, threads=3), hrm


def walk(mazes: MazeBatch, hrm: HRM) -> bytes:
    """The sum of the bits of some decisions, of where they lead, and of a gradient."""
    obs, seen = mazes.observe(), []
    for _ in range(4):
        q, _ = hrm.decide(obs)
        obs, reward, *_ = mazes.step(q.argmax(-1))
        seen += [obs, reward, q]
    hrm.zero_grad()
    target = torch.zeros(len(obs))
    hrm.td_segment(hrm.start(len(obs)), obs, q.argmax(-1), target, None, True)[2].backward()
    assert hrm.embed.grad is not None
    bits = b"".join(x.numpy().tobytes() for x in [*seen, hrm.embed.grad])
    return hashlib.sha256(bits).digest()


def in_fork(job: Callable[[], bytes]) -> bytes:
    """What a forked child makes of it; AssertionError: it hangs or fails."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # nothing of pytest's may run here
        signal.alarm(SECONDS)
        with os.fdopen(write, "wb") as pipe:
            pipe.write(job())
            pipe.flush()
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        found = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return found


def anew() -> bytes:
    return walk(*built())


def test_what_was_made_before_a_fork_and_what_after() -> None:
    right = anew()
    mazes, hrm = built()
    state = mazes.get_state()
    assert walk(mazes, hrm) == right  # now every pool has worked
    mazes.set_state(state)
    assert in_fork(lambda: walk(mazes, hrm)) == right
    assert in_fork(anew) == right
    assert in_fork(lambda: in_fork(lambda: walk(mazes, hrm))) == right  # a fork of a fork
    assert walk(mazes, hrm) == right  # and here all goes on as before

    def dropped() -> bytes:
        nonlocal mazes, hrm
        del mazes, hrm
        return anew()

    assert in_fork(dropped) == right


def test_a_fork_while_other_threads_are_in_the_middle() -> None:
    right = anew()
    mazes, hrm = built()
    ends = threading.Event()
    many = torch.full((64, SPEC.cells), ord("."), dtype=torch.uint8)

    def decides() -> None:
        while not ends.is_set():
            hrm.decide(many)

    def steps() -> None:
        while not ends.is_set():
            mazes.step(torch.zeros(96, dtype=torch.int64))

    threads = [threading.Thread(target=job) for job in (decides, steps)]
    for thread in threads:
        thread.start()
    state = MazeBatch(SPEC, 96, seed=5).get_state()

    def again() -> bytes:
        mazes.set_state(state)
        return walk(mazes, hrm)

    try:
        for _ in range(8):
            time.sleep(0.01)
            assert in_fork(again) == right
    finally:
        ends.set()
        for thread in threads:
            thread.join()


def send(hrm: HRM, to: multiprocessing.SimpleQueue) -> None:
    torch.set_num_threads(1)
    to.put(walk(MazeBatch(SPEC, 96, seed=5, threads=3), hrm))


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_multiprocessing(method: str) -> None:
    mazes, hrm = built()
    right = walk(mazes, hrm)
    context = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    child = context.Process(target=send, args=(hrm, results))
    child.start()
    child.join(SECONDS)
    if child.is_alive():
        child.kill()
    assert child.exitcode == 0
    assert results.get() == right
