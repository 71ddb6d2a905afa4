"""The instructions of a decision at the published shape; products are counted on the host too."""

import csv
import shutil
from pathlib import Path

import pytest
import torch

from hrm_fast import HRM, HRMConfig
from hrm_fast.backends.cuda import Decider
from kernels import _native
from profiling import sass_report
from profiling.ptxas_report import nvcc

pytestmark = pytest.mark.skipif(
    shutil.which("nvcc") is None or sass_report.nvdisasm() is None, reason="needs nvcc, nvdisasm"
)
COMMITTED = Path(__file__).parents[1] / "profiling/results/sass_report.csv"


@pytest.fixture(scope="module")
def row() -> dict[str, str]:
    return dict(zip(sass_report.HEADER, sass_report.row_of(90, boards=2), strict=True))


def test_a_decision_takes_no_more_instructions_than_committed(row: dict[str, str]) -> None:
    header, *rows, (made_by,) = csv.reader(COMMITTED.read_text().splitlines())
    if made_by != nvcc():
        pytest.skip(f"{COMMITTED.name} is of {made_by}, here is {nvcc()}")
    committed = next(
        r for r in (dict(zip(header, x, strict=True)) for x in rows) if r["sm"] == "90"
    )
    assert row["boards a CTA"] == committed["boards a CTA"] == "2"
    assert row["spilled B"] == "0"
    assert int(row["instructions"]) <= 1.02 * int(committed["instructions"])


def test_products_in_machine_code_are_those_of_a_run_on_the_host(row: dict[str, str]) -> None:
    """Two block passes of two boards of nine tiles. This is what shows a wrong trip count."""
    hrm = HRM(HRMConfig(h_layers=1, l_layers=1, h_cycles=1, l_cycles=1, dtype="bfloat16"))
    decider = Decider(hrm.config, boards=2)
    tokens, z = torch.zeros(2, 143, dtype=torch.uint8), torch.zeros(2, 144, 64).bfloat16()
    before = _native.products_on_host()
    decider.decide(decider.pack([p.detach() for p in hrm.in_order()]), tokens, z, z)
    assert (_native.products_on_host() - before) / (2 * 2 * 9) == int(row["tensor"])
