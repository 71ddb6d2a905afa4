"""A recorded decision is the decision: last Q, carry and z equal `HRM.decide`'s exactly."""

from typing import Any

import pytest
import torch

from hrm_fast import HRM, Carry, HRMConfig
from train.analyse.thought import decide_and_record

SMALL = {"cells": 12, "width": 16, "heads": 2, "inner": 24, "h_layers": 1, "l_layers": 2}


def tokens() -> torch.Tensor:
    boards = torch.full((5, 12), ord("."), dtype=torch.uint8)
    boards[:, 3] = ord("|")
    for board, cell in zip(boards, (0, 2, 5, 8, 11), strict=True):
        board[cell] = ord("@")
    return boards


@pytest.mark.parametrize("q_token", ["last", "agent", "mean", "goal"])
@pytest.mark.parametrize("carry", ["reset", "carry", "full"])
@pytest.mark.parametrize("kernels", ["reference", "cpu"])
def test_a_recorded_decision_is_the_decision(kernels: Any, carry: Any, q_token: Any) -> None:
    torch.manual_seed(1)
    config = HRMConfig(**SMALL, segments=4, carry=carry, q_token=q_token, kernels=kernels)
    hrm, obs = HRM(config), tokens()
    z = None
    for segments in (None, 3, 1):
        q, after = hrm.decide(obs, z, segments)
        thought = decide_and_record(hrm, obs, z, segments)
        assert torch.equal(thought.q[-1], q)
        assert torch.equal(thought.z_H[-1], after.z_H) and torch.equal(thought.z_L[-1], after.z_L)
        for mine, decided in zip(thought.stored, hrm.stored(after), strict=True):
            assert torch.equal(mine, decided)
        assert thought.q.shape == (segments or 4, 5, 4)
        assert (thought.values is None) == (q_token != "goal")
        if thought.values is not None:
            best = hrm.goal_values(obs, z, segments).amax(-1)
            assert thought.values.shape == (segments or 4, 5, 12)
            assert torch.equal(thought.values[-1], best)
        z = hrm.stored(after)


def test_every_segment_is_the_shorter_decision() -> None:
    torch.manual_seed(2)
    hrm, obs = HRM(HRMConfig(**SMALL, segments=4)), tokens()
    thought = decide_and_record(hrm, obs)
    for k in range(4):
        q, carry = hrm.decide(obs, segments=k + 1)
        assert torch.equal(thought.q[k], q)
        assert torch.equal(thought.z_L[k], carry.z_L)
    assert not torch.equal(thought.z_H[0], thought.z_H[1])


def test_halted_boards_keep_their_thought() -> None:
    torch.manual_seed(3)
    hrm, obs = HRM(HRMConfig(**SMALL, segments=4, halting=True)), tokens()
    with torch.no_grad():
        hrm.halt_head.weight.normal_()
        hrm.halt_head.bias.zero_()
    q, carry = hrm.decide(obs, z := Carry(*(torch.randn(5, 16) for _ in range(2))))
    thought = decide_and_record(hrm, obs, z)
    assert torch.equal(thought.q[-1], q) and torch.equal(thought.z_H[-1], carry.z_H)
    kept = (thought.z_H[1:] == thought.z_H[:-1]).flatten(2).all(-1)  # [S - 1, B]
    assert kept.any() and not kept.all()
