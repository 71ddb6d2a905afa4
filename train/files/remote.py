"""Run folders elsewhere: any URL that fsspec knows, such as s3://bucket/runs/a.

A run writes into a folder here, as always; a Mirror copies what is new to the URL. What is read
from a URL is downloaded once. Object stores replace a file as a whole; elsewhere a state that was
torn on the way is found by its sums, and the one before it, which is kept, is taken instead.
"""

import functools
import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from train.files.names import BEST, CONFIG, LAST, METRICS

URL = re.compile(r"((?:[a-z0-9+.-]+::)*[a-z][a-z0-9+.-]+):(/+)(.*)", re.IGNORECASE)  # a::b://c too
HERE = {"file", "local"}
BUCKETS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}  # that know no folders to be made
WANTED = (BEST, LAST, CONFIG, METRICS)


def url_of(path: str | Path) -> str | None:
    """The URL that a command line names, also where a Path has folded its slashes.

    ValueError: it names a file here, of a host.
    """
    found = None if Path(path).exists() else URL.fullmatch(str(path))
    if found is None:
        return None
    kind, slashes, rest = found[1].lower(), found[2], found[3].rstrip("/")
    if kind in HERE and slashes == "//":
        raise ValueError(f"{path} names a host: expected {kind}:///FOLDER, with three slashes")
    return f"{kind}:{'///' if kind in HERE else '//'}{rest}"


def here(path: str | Path) -> Path:
    """A path as it is; for a URL a copy of its file or, of a run's folder, all but its states.

    Raises:
        ValueError: fsspec does not know it, or there is nothing.
        OSError: it cannot be read.
    """
    url = url_of(path)
    return Path(path) if url is None else _downloaded(url)


def has(folder: str, name: str) -> bool:
    """Whether a folder, here or at a URL, holds a file of this name."""
    url = url_of(folder)
    return (Path(folder) / name).exists() if url is None else name in Mirror(url, Path()).names()


@functools.cache
def _downloaded(url: str) -> Path:
    place = Mirror(url, _new_folder())
    if place.is_file():
        return place.fetch("")
    names = place.names()
    if not names & set(WANTED):
        raise ValueError(f"{url} holds nothing: expected a run's folder or a checkpoint")
    for name in names & set(WANTED):
        place.fetch(name)
    return place.folder


def _new_folder() -> Path:
    return Path(tempfile.mkdtemp(dir=_temporary().name))


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="hrm_fast-")  # until the process ends


class Mirror:
    """Keeps the folder at a URL equal to a folder here.

    spare: name -> name of the generation before. `push` renames such a file at the URL before it
    replaces it, if `may_rename` says that it is whole, so that a state is uploaded only once.

    Raises:
        ValueError: fsspec does not know the URL, or what it needs for that is not installed.
    """

    def __init__(self, url: str, folder: Path, spare: dict[str, str] | None = None) -> None:
        self.url, self.folder, self.spare = url, folder, spare or {}
        self.may_rename = False
        self.sent: dict[str, tuple[int, int]] = {}  # name -> size and time of what is there
        try:
            self.fs, self.root = fsspec.core.url_to_fs(url)
        except Exception as error:  # every service has needs of its own
            why = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{url} ({why}): expected a URL that fsspec can reach") from None

    def is_file(self) -> bool:
        return self._do(self.fs.isfile, self.root)

    def names(self) -> set[str]:
        """Files of the folder at the URL, without those below it; empty where it is not there."""
        self.fs.invalidate_cache()
        found = self._do(self.fs.find, self.root, maxdepth=1)
        return {PurePosixPath(path).name for path in found}

    def fetch(self, name: str) -> Path:
        """A file of the folder, or the URL's own for ""."""
        to = self.folder / (name or PurePosixPath(self.root).name)
        self._do(self.fs.get_file, f"{self.root}/{name}" if name else self.root, str(to))
        self.sent[to.name] = _stamp(to)
        return to

    def push(self) -> None:
        """Copy files that are new or have changed, oldest first, to the URL."""
        if not self.sent and BUCKETS.isdisjoint(_protocols(self.fs)):
            self._do(self.fs.makedirs, self.root, exist_ok=True)
        files = [f for f in self.folder.iterdir() if f.is_file() and not f.name.startswith(".")]
        for file in sorted(files, key=lambda f: f.stat().st_mtime_ns):
            stamp = _stamp(file)
            if self.sent.get(file.name) == stamp or file.name in self.spare.values():
                continue
            to = f"{self.root}/{file.name}"
            if file.name in self.spare and self.may_rename:
                self._do(self.fs.mv, to, f"{self.root}/{self.spare[file.name]}")
                self.may_rename = False
            self.sent.pop(file.name, None)
            self._do(self.fs.put_file, str(file), to)
            self.sent[file.name] = stamp

    def remove_copy(self) -> None:
        """Of the folder here; only what has been pushed is left."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _do(self, what: Any, *args: Any, **more: Any) -> Any:
        try:
            return what(*args, **more)
        except Exception as error:  # every service has errors of its own
            why = " ".join(str(error).split()) or type(error).__name__
            raise OSError(f"{self.url}: {why}") from None


def _protocols(fs: Any) -> set[str]:
    return {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)


def _stamp(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns
