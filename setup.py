"""Builds the native modules. Metadata lives in pyproject.toml.

A ninja file is written for each module; its rules read the compilers' own dependency files, so
editing a header rebuilds exactly what includes it. No torch is needed here and none is linked. CUDA
sources join where there are nvcc and a GPU, for that GPU: for all of them they take minutes.
HRM_FAST_CUDA=1 builds them for GPU_ARCHITECTURES without one, 0 leaves them out. g++ or clang++
alone is enough, and compiles them too, to run on the host (csrc/common/cuda.h).
HRM_FAST_SANITIZE=address,undefined or =thread builds with these sanitizers. CXX, CPPFLAGS, CXXFLAGS
and LDFLAGS are heeded.
"""

import os
import platform
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
GPU_ARCHITECTURES = (80, 90, 100)
SANITIZE = os.environ.get("HRM_FAST_SANITIZE", "")
ROOMS = {"envs._maze": "maze", "kernels._native": "hrm"}  # module -> its folder in csrc
# Files that are compiled for one instruction set; which of them runs is decided at run time.
INSTRUCTIONS = {
    "kernels_avx2": "-mavx2 -mfma",
    "kernels_avx512": "-mavx512f -mfma",
}


def find_ninja() -> str:
    try:
        import ninja  # noqa: PLC0415  (a build requirement; a system ninja serves as well)

        return str(Path(ninja.BIN_DIR) / "ninja")
    except ImportError:
        return shutil.which("ninja") or sys.exit("ninja not found: pip install ninja")


def gpus() -> list[int]:
    """The architectures of the GPUs here that can run the kernels."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    if not shutil.which(query[0]):
        return []
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    if answer.returncode:  # it says why where the numbers stand, other numbers among the words
        return []
    found = {int(line.replace(".", "")) for line in answer.stdout.split() if line[0].isdigit()}
    return sorted(a for a in found if a >= GPU_ARCHITECTURES[0])


def find_nvcc() -> str | None:
    asked = os.environ.get("HRM_FAST_CUDA", "")
    if asked not in ("", "0", "1"):
        sys.exit(f"HRM_FAST_CUDA is {asked!r}: expected 0 or 1")
    if SANITIZE or asked == "0" or not (asked or gpus()):
        return None
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if asked and nvcc is None:
        sys.exit("HRM_FAST_CUDA is 1, but there is no nvcc: expected it in PATH or /usr/local/cuda")
    return nvcc


def words(variable: str, default: str = "") -> list[str]:
    """A variable's words, as a shell reads them."""
    try:
        return shlex.split(os.environ.get(variable) or default)
    except ValueError as error:
        sys.exit(f"{variable} is {os.environ[variable]!r} ({error}): expected words for a shell")


def joined(words: list[str]) -> str:
    """Words for a shell that ninja starts."""
    return shlex.join(words).replace("$", "$$")


def find_cxx() -> list[str]:
    """The compiler and its first arguments, such as `ccache g++`."""
    default = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), "")
    cxx = words("CXX", default)
    if not cxx:
        sys.exit("no C++ compiler: expected c++, g++ or clang++ in PATH, or one named by CXX")
    if not shutil.which(cxx[0]):
        sys.exit(f"the C++ compiler {cxx[0]}, named by CXX, is not there: expected it in PATH")
    return cxx


def gencode(nvcc: str) -> list[str]:
    """Machine code for the GPUs here, or for every architecture of the table that this nvcc knows,
    and PTX of the newest for later ones."""
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True)
    wanted = gpus() or GPU_ARCHITECTURES
    known = [a for a in wanted if f"compute_{a}" in listed.stdout.split()]
    if not known:
        sys.exit(f"nvcc knows none of sm_{', sm_'.join(map(str, wanted))}: set HRM_FAST_CUDA=0")
    flags = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in known]
    return [*flags, f"-gencode=arch=compute_{known[-1]},code=compute_{known[-1]}"]


def rules_of(source: Path, cuda: bool) -> list[str]:
    """How a file is compiled: device code for the host (csrc/common/cuda.h), and for the GPU."""
    if source.suffix != ".cu":
        return ["cxx"]
    return ["host", "cuda"] if cuda else ["host"]


def ninja_file(sources: list[Path], target: Path, nvcc: str | None, digest: str) -> str:
    cxx = joined(find_cxx())
    mac = sys.platform == "darwin"
    folders = (ROOT / "csrc", pybind11.get_include(), sysconfig.get_path("include"))
    include = [joined([f"-I{folder}"]) for folder in folders]
    flags = ["-Wall", "-Wextra", "-ffp-contract=fast"]  # a * b + c in one rounding where it can
    if SANITIZE:
        sanitize = [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=undefined"]
        flags += ["-O1", "-g", "-fno-omit-frame-pointer", *sanitize]
    else:
        sanitize = []
        flags += ["-O3", "-DNDEBUG"]
    flags += [joined([*words("CPPFLAGS"), *words("CXXFLAGS")])]
    flags += ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-pthread"]  # nothing works without
    link = ["-bundle", "-undefined", "dynamic_lookup"] if mac else ["-shared", "-pthread"]
    libraries = words("LDFLAGS")
    link_command = f"{cxx} {' '.join(link + sanitize)} $in -o $out {joined(libraries)}"
    if nvcc:
        flags.append("-DHRM_FAST_CUDA=1")
        # nvcc splits at commas, and hands what it passes on to a shell
        escaped = (word.replace(",", r"\,").replace("$", r"\\$") for word in libraries)
        passed = [f"-Xcompiler={word}" for word in escaped]
        link_command = f"{nvcc} -shared --cudart static -Xcompiler -pthread $in -o $out"
        link_command += f" {joined(passed)}"
    compile_command = f"{cxx} {' '.join(include + flags)} $own"
    host_command = f"{compile_command} -Wno-unknown-pragmas"  # nvcc's `#pragma unroll`
    rules = [
        f"rule cxx\n  command = {compile_command} -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d\n  deps = gcc\n  description = c++ $in",
        f"rule host\n  command = {host_command} -MMD -MF $out.d -x c++ -c $in -o $out",
        "  depfile = $out.d\n  deps = gcc\n  description = c++ $in",
        f"rule link\n  command = {link_command}\n  description = link $out",
    ]
    if nvcc:
        cuda_flags = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xcompiler=-fPIC"]
        cuda_flags += ["--threads=3"]  # one for each architecture
        cuda_flags += [include[0], *gencode(nvcc)]
        rules += [
            f"rule cuda\n  command = {nvcc} {' '.join(cuda_flags)} -MD -MF $out.d -c $in -o $out",
            "  depfile = $out.d\n  deps = gcc\n  description = nvcc $in",
        ]

    def quote(path: object) -> str:
        return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    x86 = platform.machine() in ("x86_64", "AMD64")
    steps = [
        (f"{s.relative_to(ROOT / 'csrc').as_posix()}.{rule}.o", rule, s)
        for s in sources
        for rule in rules_of(s, nvcc is not None)
    ]
    builds = [
        f"build {quote(o)}: {rule} {quote(s)}"
        + (f"\n  own = {INSTRUCTIONS[s.stem]}" if x86 and s.stem in INSTRUCTIONS else "")
        + (f"\n  own = -DHRM_FAST_SOURCES={digest}" if s.stem == "bind" else "")
        for o, rule, s in steps
    ]
    objects = [quote(o) for o, _, _ in steps]
    return "\n".join([*rules, *builds, f"build {quote(target)}: link {' '.join(objects)}", ""])


class NinjaBuild(build_ext):
    """`build_ext` that hands each extension to ninja."""

    def run(self) -> None:
        for variable in ("CC", "CXX", "CFLAGS", "CPPFLAGS", "CXXFLAGS", "LDFLAGS"):
            words(variable)  # one line for an open quote, where setuptools ends in a traceback
        super().run()

    def build_extension(self, ext: Extension) -> None:
        nvcc = find_nvcc()
        if nvcc is None:
            print("no nvcc and GPU of sm_80 or newer, or not wanted: the CUDA kernels are left out")
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        kind = SANITIZE.replace(",", "-") or "native"
        # in the tree, not in setuptools' temporary folder: a second build starts from the first
        folder = ROOT / "build" / f"{kind}-{sys.implementation.cache_tag}" / ext.name
        folder.mkdir(parents=True, exist_ok=True)
        sources = [ROOT / s for s in ext.sources]
        digest = runpy.run_path(str(ROOT / "csrc" / "digest.py"))["digest"](ROOMS[ext.name])
        (folder / "build.ninja").write_text(ninja_file(sources, target, nvcc, digest))
        if subprocess.run([find_ninja(), "-C", str(folder), str(target)], check=False).returncode:
            sys.exit(f"{ext.name} could not be built: the compiler says why above")


class FreshBuild(build_py):
    """`build_py` into an empty folder: setuptools leaves there what an earlier build copied, and
    a wheel would hold modules that are gone."""

    def run(self) -> None:
        if not self.editable_mode:
            for package in self.packages or ():
                shutil.rmtree(Path(self.build_lib, *package.split(".")), ignore_errors=True)
        super().run()


def module(name: str) -> Extension:
    folder = ROOT / "csrc" / ROOMS[name]
    sources = sorted([*folder.glob("*.cpp"), *folder.glob("*.cu")])
    return Extension(name, [s.relative_to(ROOT).as_posix() for s in sources])


commands = {"build_ext": NinjaBuild, "build_py": FreshBuild}
setup(ext_modules=[module(name) for name in ROOMS], cmdclass=commands)
