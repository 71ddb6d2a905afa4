"""All that is to be known of the kernels on a GPU, in one run of up to 9 minutes:
`python profiling/gpu_check.py`.

    checks     every Triton op and the model against float64, forward and all gradients
    tests      CUDA decisions, mazes, the cycle as a graph, --deterministic: their tests, on the GPU
    timings    at the published shape, beside eager PyTorch, torch.compile and SDPA
    sanitizer  some of the checks under compute-sanitizer, if it is installed
    compiler   `profiling.kernel_report` for this GPU

Numbers go to profiling/results/gpu/ after every section. The exit status is 1 where a check or a
section fails; no speed is given for an op whose check failed. Without a GPU the checks run small,
in Triton's interpreter, and what is left out is said.
"""

import argparse
import csv
import importlib.metadata
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from profiling import gpu_correct, gpu_timings
from profiling.bench_maze import machine

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("checks", "tests", "timings", "sanitizer", "compiler")
TESTS = (
    *("test_maze_device.py", "test_cuda_decide.py", "test_graph.py"),
    "test_continuation.py::test_resumed_equals_straight_on_a_gpu",
)
SANITIZED = (  # one decision of every kind and a few steps of mazes
    "tests/test_cuda_decide.py::test_what_is_kept_and_how_it_starts",
    "tests/test_cuda_decide.py::test_two_boards_at_a_time_are_as_one",
    "tests/test_maze_device.py::test_given_memory_on_a_gpu",
)
SECONDS = 540  # for everything
AFTERWARDS = 180  # of these, kept for what follows the timings
REPORTING = 60  # of these, kept for the compiler's report
TOOLS = ("memcheck", "racecheck")
GPU = torch.cuda.is_available()


class Findings:
    """What the sections leave for the files and for one another."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.began = args, time.perf_counter()
        self.about: dict[str, str] = {}
        self.checks: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.wrong: list[str] = []
        self.left_out: list[str] = []

    def left(self) -> float:
        """Seconds."""
        return self.args.seconds - (time.perf_counter() - self.began)

    def leave_out(self, what: str) -> None:
        print(f"left out: {what}", flush=True)
        self.left_out.append(what)


def say(line: str) -> None:
    print(line, flush=True)


def command(words: list[str], seconds: float, **more: str) -> tuple[int, str]:
    """Exit status and output of a Python program here; TimeoutExpired after `seconds`."""
    process = subprocess.Popen(
        words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)} | more, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=max(1.0, seconds))
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # the program that a sanitizer runs is a child of it
        raise
    return process.returncode, said


def about(findings: Findings) -> None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = "none"
    if GPU and shutil.which(query[0]):
        answer = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
        driver = (answer.stdout.split() or ["unknown"])[0]
    findings.about = {
        "gpu": torch.cuda.get_device_name() if GPU else "none",
        "driver": driver,
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "triton": importlib.metadata.version("triton"),
        "machine": machine(),
    }
    say("\n".join(f"{name:8} {value}" for name, value in findings.about.items()))


def checks(findings: Findings) -> None:
    dtypes = [torch.float32, torch.bfloat16]
    if not GPU:
        findings.leave_out("bfloat16 checks: the interpreter cuts digits off where a GPU rounds")
        dtypes.pop()
    elif findings.args.small:
        dtypes = dtypes[1:]
    device, small = ("cuda", findings.args.small) if GPU else ("cpu", True)
    found = gpu_correct.check_all(device, small, dtypes, findings.args.kernel, say)
    findings.checks = [f._asdict() for f in found]
    if not found:
        findings.wrong.append(
            f"--kernel is {findings.args.kernel!r}: expected a part of a check's name"
        )
    findings.wrong += [f"check of {f.name}, {f.dtype}" for f in found if not f.passed]


def tests(findings: Findings) -> None:
    if not GPU:
        return findings.leave_out("tests on a GPU: no GPU")
    files = [str(ROOT / "tests" / name) for name in TESTS]
    try:
        # cuBLAS is to be told before its first use what --deterministic asks for
        words = [sys.executable, "-m", "pytest", "-q", *files]
        status, said = command(words, 150.0, CUBLAS_WORKSPACE_CONFIG=":4096:8")
    except subprocess.TimeoutExpired:
        return findings.leave_out("tests: not done in 150 s")
    say(said[-6_000:])
    if status:
        findings.wrong.append("tests on the GPU")


def timings(findings: Findings) -> None:
    if not GPU:
        return findings.leave_out("timings, SDPA and torch.compile: no GPU")
    if not findings.checks or findings.args.kernel:
        return findings.leave_out("timings: not everything was checked before")
    failed = {f["name"] for f in findings.checks if not f["passed"]}
    report = gpu_timings.Report(findings.rows, findings.left_out, findings.wrong)
    gpu_timings.time_all(failed, report, lambda: findings.left() - AFTERWARDS)
    goals(findings)


def goals(findings: Findings) -> None:
    """Goals are not checks: a missed one fails nothing."""
    by_name = {(row["what"], row["peer"]): row for row in findings.rows}

    def ratio(what: str, slow: str) -> float:
        found = [by_name.get((what, peer), {}) for peer in (slow, "triton, graph")]
        a, b = (row.get("microseconds", float("nan")) for row in found)
        return a / b

    share = by_name.get(("block forward", "triton, graph"), {}).get("of_peak", float("nan"))
    segment = "training segment"
    say(f"goal: block forward at 25% of the measured product: {share:.1%}")
    say(f"goal: {segment} 3 x torch.compile with CUDA graphs: {ratio(segment, 'compile'):.2f}")
    say(f"goal: {segment} 10 x eager: {ratio(segment, 'eager'):.2f}")


def sanitizer(findings: Findings) -> None:
    usual = "/usr/local/cuda/bin/compute-sanitizer"
    tool = shutil.which("compute-sanitizer") or shutil.which(usual)
    if not GPU or tool is None:
        return findings.leave_out(f"sanitizer: {'not installed' if GPU else 'no GPU'}")
    programs = {
        "Triton": [__file__, "--only", "checks", "--small"],
        "CUDA C++": ["-m", "pytest", "-q", *SANITIZED],
    }
    for name, what in itertools.product(TOOLS, programs):
        # PyTorch asks the driver for what older ones lack: such answers are no errors of ours
        words = [tool, "--tool", name, "--report-api-errors", "no", "--error-exitcode", "9"]
        words += [sys.executable, *programs[what]]
        seconds = min(45.0, findings.left() - REPORTING)
        try:
            status, said = command(words, seconds, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        except subprocess.TimeoutExpired:
            findings.leave_out(f"sanitizer, {name}, {what}: not done in {seconds:.0f} s")
            continue
        say(f"{name}, {what}: exit status {status}\n{said[-1500:] if status else ''}")
        if status:
            findings.wrong.append(f"sanitizer, {name}, {what}")


def compiler(findings: Findings) -> None:
    arch = "90"
    if GPU:
        major, minor = torch.cuda.get_device_capability()
        arch = str(10 * major + minor)
    if arch not in ("80", "86", "89", "90", "100", "120"):
        return findings.leave_out(f"compiler: nothing is known of sm_{arch}")
    words = [sys.executable, "-m", "profiling.kernel_report", "--arch", arch, "--no-cuda"]
    seconds = findings.left() if GPU else SECONDS
    try:
        status, said = command([*words, "--only", findings.args.kernel], seconds)
    except subprocess.TimeoutExpired:
        return findings.leave_out(f"compiler: not done in {seconds:.0f} s")
    say(said[-12_000:] if status else said[said.find("| kernel") :])
    if status:
        findings.wrong.append("compiler's report")


def write(findings: Findings) -> None:
    """JSON of everything, CSV of the timings."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", findings.about.get("gpu", "unknown")).strip("-")
    folder: Path = findings.args.out
    folder.mkdir(parents=True, exist_ok=True)
    kept = ("about", "checks", "rows", "wrong", "left_out")
    found = {key: getattr(findings, key) for key in kept}
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    if findings.rows:
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(findings.rows[0]))
            writer.writeheader()
            writer.writerows(findings.rows)
            csv.writer(file).writerow([f"{k} {v}" for k, v in findings.about.items()])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--small", action="store_true", help="checks at small sizes alone")
    parser.add_argument("--kernel", default="", help="those with this in their name alone")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for everything")
    parser.add_argument("--out", type=Path, default=ROOT / "profiling" / "results" / "gpu")
    args = parser.parse_args()
    findings = Findings(args)
    sections: dict[str, Callable[[Findings], None]] = {
        "about": about, "checks": checks, "tests": tests, "timings": timings,
        "sanitizer": sanitizer, "compiler": compiler,
    }  # fmt: skip
    for name, section in sections.items():
        if name not in ("about", *args.only):
            continue
        begin = time.perf_counter()
        say(f"\n{name}")
        try:
            section(findings)
        except Exception as error:
            findings.wrong.append(f"{name}: {type(error).__name__}: {error}")
            say(f"FAILED {findings.wrong[-1]}")
        say(f"{name}: {time.perf_counter() - begin:.0f} s")
        if GPU and set(args.only) == set(SECTIONS):
            write(findings)
    for line in findings.left_out:
        say(f"left out: {line}")
    for line in findings.wrong:
        say(f"FAILED {line}")
    return 1 if findings.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
