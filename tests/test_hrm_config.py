"""The model's config: what it derives, and the one line that each bad field gets."""

import math
from typing import Any

import pytest

from hrm_fast import HRMConfig


def test_derived_sizes() -> None:
    published = HRMConfig()
    assert (published.tokens, published.head_size, published.vocab_size) == (144, 32, 131)
    assert published.inner_width == 256
    assert HRMConfig(width=512, heads=8).inner_width == 1536
    assert HRMConfig(inner=64).inner_width == 64
    assert HRMConfig(expansion=1e-9).inner_width == 256
    walled = HRMConfig(cells=6, walls=(0, 4))
    assert (walled.tokens, walled.seen) == (5, (1, 2, 3, 5))


BAD_FIELDS = [
    ({"cells": 0}, "cells is 0: expected an integer of 1 or more"),
    ({"actions": 2.5}, "actions is 2.5: expected an integer of 1 or more"),
    ({"segments": True}, "segments is True: expected an integer of 1 or more"),
    ({"expansion": True}, "expansion is True: expected a finite number above 0"),
    ({"inner": -1}, "inner is -1: expected an integer of 1 or more"),
    ({"heads": 3}, "heads is 3: expected a divisor of width 64"),
    ({"width": 6}, "heads is 2: expected width 6 / heads to be even for 'rope'"),
    (
        {"width": 12, "positions": "rope2d", "columns": 13},
        "heads is 2: expected width 12 / heads to be a multiple of 4 for 'rope2d'",
    ),
    ({"positions": "rope2d"}, "columns is None: expected a divisor of cells 143"),
    ({"position_start": "sincos"}, "columns is None: expected a divisor of cells 143"),
    (
        {"position_start": "sincos", "width": 6, "positions": "learned", "columns": 13},
        "width is 6: expected a multiple of 4 for 'sincos'",
    ),
    (
        {"positions": "rope2d+learned", "columns": 7},
        "columns is 7: expected a divisor of cells 143",
    ),
    ({"q_token": "agent", "vocab": 64}, "vocab is 64: expected more than 64, the agent's code"),
    (
        {"positions": "sine"},
        "positions is 'sine': expected 'rope' or 'rope2d' or 'learned' or 'rope2d+learned'",
    ),
    ({"carry": None}, "carry is None: expected 'reset' or 'carry' or 'full'"),
    ({"dtype": "float16"}, "dtype is 'float16': expected 'float32' or 'bfloat16'"),
    ({"expansion": 0.0}, "expansion is 0.0: expected a finite number above 0"),
    ({"rope_base": math.nan}, "rope_base is nan: expected a finite number above 0"),
    ({"rope_base": 1e-300}, "rope_base is 1e-300: expected 1e-06 to 1e+06"),
    ({"expansion": 1e308}, "expansion is 1e+308: expected at most 4096 at width 64"),
    ({"halting": 1}, "halting is 1: expected True or False"),
    *(
        (
            {"cells": 4, "walls": walls},
            f"walls is {walls!r}: expected a tuple of some of the cells 0 to 3, in order",
        )
        for walls in ((3, 1), (1, 1), (-1,), (4,), (1.0,), (True,), [1], "1", (0, 1, 2, 3))
    ),
]


@pytest.mark.parametrize(("fields", "message"), BAD_FIELDS)
def test_bad_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        HRMConfig(**fields)
    assert str(error.value) == message
