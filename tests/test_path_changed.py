"""Whether doors change the agent's way: boards drawn by hand."""

from dataclasses import replace

import torch

from envs import MazeSpec
from train.analyse.study import path_changed
from train.episodes import shortest_paths

SPEC = MazeSpec(map=("...d.", "-d-|d", "....."), closed_doors=2)


def boards(*pictures):
    rows = [[list(row.encode()) for row in picture.split()] for picture in pictures]
    return torch.tensor(rows, dtype=torch.uint8)


def test_path_changed():
    """From the upper left to the lower left; the way round the right hand is the longer one."""
    cases = {
        "@.... -#-|. >....": True,  # the door on the path has closed
        "@..#. -.-|. >....": False,  # two doors off the path have changed
        "@.... -.-|# >....": False,  # none has
        ".@... -.-|# >....": False,  # the agent has gone on
    }
    after = boards(*cases)
    before = boards("@.... -.-|# >....").expand_as(after)
    assert path_changed(SPEC, before, after).tolist() == list(cases.values())
    assert not path_changed(SPEC, before[:0], after[:0]).numel()
    cut_off = boards(*["@.... -#-|# >...."] * 2)
    after = boards("@..#. -.-|# >....", "@..#. -#-|. >....")  # now there is a path; there is none
    assert path_changed(SPEC, cut_off, after).tolist() == [True, False]
    behind = boards("..... -@-|# >....", "..... -#-|. >@...")  # a door that closes behind the agent
    assert path_changed(SPEC, behind[:1], behind[1:]).tolist() == [False]


def test_shortest_paths():
    spec = replace(SPEC, max_steps=3)  # fewer than the path needs
    path, cut_off = shortest_paths(spec, boards("@.... -#-|. >....", "@.... -#-|# >...."))
    assert path == [0, 1, 2, 3, 4, 9, 14, 13, 12, 11, 10]
    assert cut_off == []
