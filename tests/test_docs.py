"""README and docs/: commands and snippets run, pictures are drawn, links lead somewhere."""

import contextlib
import glob
import importlib.util
import io
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from profiling import browser, figures, speedrun
from train.run import log

ROOT = Path(__file__).resolve().parent.parent
PAGES = [p for where in (".", "docs", "examples") for p in sorted((ROOT / where).glob("*.md"))]

# A command's first words -> what is added so that it ends soon; the last of a flag's values counts
SHORTER = {
    "python -m train.dqn": "--updates 8 --log-every 4 --eval-every 4 --eval-episodes 16",
    "python -m train.evaluate": "--episodes 8",
    "python -m train.analyse.figures": "",
    "python -m train.analyse": "--mazes 4",
    "python -m train.card": "--episodes 8",
    "python -m train.watch": "--episodes 2 --among 4",
    "python -m profiling.speedrun": "--table",
    "python -m profiling.bench_maze": "--repeats 1",
    "python -m profiling.bench_train": "--repeats 1",
    "python -m profiling.kernel_report": "--no-cuda",
    "python -m profiling.sass_report": "",
    "python profiling/gpu_check.py": "--small",
    "python examples/own_map.py": "--updates 20",
    "python examples/own_model.py": "--updates 60",
    "python examples/ppo.py": "--iterations 1",
}
SLOW = (
    *("python -m profiling.bench_maze", "python -m profiling.bench_train"),
    *("python -m profiling.kernel_report", "python profiling/gpu_check.py"),
)
NOT_RUN = {
    "make train": "trains `maze` to its end; tests/test_train.py trains",
    "make test": "runs this",
    "make study": "takes long; tests/test_profiling.py has its program",
    "make figures": "test_every_picture_is_drawn runs its program",
    "pip install": "the tests run where it has been done",
    "torchrun": "tests/test_distributed.py starts ranks",
    "pytest": "runs with the others; the files must be there",
}
ENDS_WITH_2 = {  # without a keyboard, MiniHack or Nsight; flags are read before
    "python -m train.play": "stdin is not a terminal",
    "python -m train.dqn --env gym:MiniHack": "expected pip install -e '.[minihack]'",
    "profiling/nsys_train.sh": "nsys not found",
    "profiling/ncu_kernel.sh": "ncu not found",
}
WORDS = ("python", "pytest", "make", "profiling/", "torchrun", "pip")


def starting(command: str, table: dict[str, str]) -> str | None:
    return next((table[start] for start in table if command.startswith(start)), None)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """("python" or "", text) of a page's fenced and indented blocks of code, in order."""
    pattern = r"^```(\w*)\n((?:.*\n)*?)```$|(?<=\n\n)((?: {4}.*\n|\n(?= {4}))+)"
    for found in re.finditer(pattern, page.read_text(), re.MULTILINE):
        fenced, text, indented = found.groups()
        yield (fenced, text) if text is not None else ("", re.sub("(?m)^    ", "", indented))


def commands(page: Path) -> list[str]:
    lines = "".join(text for kind, text in blocks(page) if kind != "python")
    lines = lines.replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.startswith(WORDS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a short run in it and the map of docs/; some programs write to profiling/."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "profiling", folder / "profiling")
    for name in ("csrc", "envs", "examples", "hrm_fast", "kernels", "tests", "train"):
        (folder / name).symlink_to(ROOT / name)
    drawn = next(text for _, text in blocks(ROOT / "docs" / "your-own.md"))
    (folder / "map.txt").write_text(drawn)
    sizes = "--updates 4 --dqn.learning-starts 512 --log-every 4 --eval-every 4 --eval-episodes 16"
    status, said = run(f"python -m train.dqn --preset quick {sizes}", folder)
    assert status == 0, said
    return folder


def run(command: str, folder: Path, apart: bool = False) -> tuple[int, str]:
    """Exit status and all that was said; `python -m` in this process, quicker, if not `apart`."""
    words = [w for x in shlex.split(command) for w in sorted(glob.glob(x, root_dir=folder)) or [x]]
    if words[0] == "python" and (apart or words[1] != "-m"):
        words[0] = sys.executable
    if words[0] != "python":
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr
    said, status = io.StringIO(), 0
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", words[2:])
        patch.setattr(sys, "stdin", io.StringIO())
        patch.chdir(folder)
        with contextlib.redirect_stderr(said):
            try:
                runpy.run_module(words[2], run_name="__main__", alter_sys=True)
            except SystemExit as stop:
                status = int(stop.code or 0)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return status, said.getvalue()


def check(command: str, folder: Path, apart: bool = False) -> None:
    """It ends well; or with status 2 and the one line that says what this machine has not."""
    if "--device cuda" in command and not torch.cuda.is_available():
        return
    status, said = run(f"{command} {starting(command, SHORTER) or ''}", folder, apart)
    expected = starting(command, ENDS_WITH_2)
    if expected is not None and status == 2:
        assert expected in said
    else:
        assert status == 0, f"{command}: {said}"


@pytest.mark.filterwarnings("ignore:.*found in sys.modules after import")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands(page: Path, folder: Path) -> None:
    for command in commands(page):
        if starting(command, NOT_RUN) is None and not command.startswith(SLOW):
            check(command, folder)
        for word in command.split():
            assert not word.startswith("tests/") or (ROOT / word).exists(), command


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", dict.fromkeys(c for page in PAGES for c in commands(page) if c.startswith(SLOW))
)
def test_slow_commands(command: str, folder: Path) -> None:
    check(command, folder, apart=True)


@pytest.mark.parametrize(
    "snippet",
    [
        pytest.param(text, id=f"{page.stem}-{i}")
        for page in PAGES
        for i, (kind, text) in enumerate(blocks(page))
        if kind == "python"
    ],
)
def test_snippets(snippet: str) -> None:
    if "kernels.triton" in snippet:
        pytest.importorskip("triton", reason="Triton is an optional package")
    exec(compile(snippet, "snippet", "exec"), {})


def test_programs_are_programs() -> None:
    for page in PAGES:
        for module in re.findall(r"python -m ([\w.]+)", page.read_text()):
            spec = importlib.util.find_spec(module)
            if spec and spec.submodule_search_locations:
                spec = importlib.util.find_spec(f"{module}.__main__")
            assert spec and spec.origin, f"{page.name}: {module}"
            assert "__main__" in Path(spec.origin).read_text(), f"{page.name}: {module}"


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for shown, target in re.findall(r"\[([^]]*)\]\(([^)\s]+)\)", page.read_text()):
            if target.startswith("http"):
                continue
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"(?m)^#+ (.*)$", there.read_text())
                known = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
                assert anchor in known, f"{page.name}: {target}"
            if re.fullmatch(r"`\w+(\.\w+)?`", shown) and there.suffix in (".py", ".h"):
                name = shown.strip("`").split(".")
                text = there.read_text()
                assert shown.strip("`") == there.name or all(
                    re.search(rf"\b{part}\b", text) for part in name
                ), f"{page.name}: {shown} is not in {target}"


TABLES = ROOT / "profiling" / "results" / "analyse"


def shown() -> set[Path]:
    """Every picture that a page shows."""
    links = ((p, re.findall(r"!\[[^]]*\]\(([^)\s]+)\)", p.read_text())) for p in PAGES)
    return {(page.parent / target).resolve() for page, found in links for target in found}


def is_picture(path: Path) -> bool:
    return path.read_bytes()[:4] in (b"GIF8", b"\x89PNG")


def test_every_picture_is_drawn(tmp_path: Path) -> None:
    for path in shown():
        assert is_picture(path)
        name = path.relative_to(ROOT).as_posix()
        if TABLES in path.parents:
            assert path.parent.with_suffix(".csv").exists(), name  # drawn below
        elif browser.find() or name != "docs/viewer.png":
            figures.FIGURES[name](tmp_path / name)
            assert is_picture(tmp_path / name)


@pytest.mark.slow
def test_every_table_of_the_analysis_is_drawn(tmp_path: Path) -> None:
    drawn = set()
    for table in TABLES.glob("*.csv"):
        drawn |= {TABLES / table.stem / p.name for p in figures.of_table(table, tmp_path)}
    assert {path for path in shown() if TABLES in path.parents} <= drawn


def test_the_same_picture_again(tmp_path: Path) -> None:
    for name in ("one.png", "other.png"):
        figures.study_carry(tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()


def test_the_table_of_the_speedrun_is_the_file() -> None:
    assert speedrun.table(speedrun.read()) in (ROOT / "README.md").read_text()


def test_every_logged_number_is_explained() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert tuple(re.findall(r"^\| `([\w/]+)` \|", page, re.MULTILINE)) == log.COLUMNS
