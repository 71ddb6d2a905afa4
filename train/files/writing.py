"""Files that are whole or not there: each is written beside its place, flushed and renamed.

So a crash or a full disk leaves the earlier one as it was.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from safetensors import SafetensorError

from train.files.names import OF_A_RUN


@contextlib.contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it if the block ends well, else removed.

    What stood there is renamed to `previous` where that is asked for. A symbolic link is followed:
    what it points to is replaced. What is there and no regular file, and the links of /dev and
    /proc, such as /dev/stdout, are written to as they are.

    Raises:
        OSError: the disk is full or the folder cannot be written, in one line that names `path`.
            Where nothing can be written at all, it is raised before the block begins.
    """
    is_special = os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
    if is_special or (os.path.islink(path) and str(path).startswith(("/dev/", "/proc/"))):
        try:
            yield path
        except OSError as error:
            raise OSError(f"{path} could not be written: {error.strerror or error}") from None
        return
    path = Path(os.path.realpath(path)) if os.path.islink(path) else path
    part = _part_of(path)
    try:
        _begin(path)
        mode = part.stat().st_mode
        yield part
        part.chmod(mode)  # safetensors makes a file that nobody else may read
        _to_disk(part)
        if previous is not None:
            os.replace(path, previous)
        os.replace(part, path)
        with contextlib.suppress(OSError):  # not every file system can flush a folder
            _to_disk(path.parent)
    except (OSError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        kept = "; what stood there is kept" if path.is_file() else ""
        raise OSError(f"{path} could not be written: {why}{kept}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def check_outputs(read: Path, **outputs: Path | None) -> None:
    """Refuse, before any work, outputs that cannot be written and those that would lose something.

    ValueError: two outputs are one file, or one is what is read: `read` or a file of that run.
    OSError: one cannot be written.
    """
    kept = {os.path.realpath(path) for path in (read, *(read / name for name in OF_A_RUN))}
    for flag, path in outputs.items():
        if path is None or str(path).startswith(("/dev/", "/proc/self/fd/")):
            continue
        place = os.path.realpath(path)
        if place in kept:
            raise ValueError(f"{flag} is {path}: expected a file that is not in use")
        kept.add(place)
        try:
            _begin(Path(place))
        except OSError as error:
            raise OSError(f"{path} could not be written: {error.strerror or error}") from None
        finally:
            with contextlib.suppress(OSError):
                _part_of(Path(place)).unlink(missing_ok=True)


def _part_of(path: Path) -> Path:
    return path.parent / f".{path.name}.part"


def _begin(path: Path) -> None:
    """Make the temporary file beside `path`. OSError: that cannot be."""
    if path.is_dir():
        raise OSError(errno.EISDIR, "it is a folder, expected a file's name")
    path.parent.mkdir(parents=True, exist_ok=True)
    _part_of(path).touch()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def open_text(path: Path) -> TextIO:
    """To write a table's rows to, in UTF-8 whatever the locale; what is no text stays as it is."""
    return path.open("w", newline="", encoding="utf-8", errors="surrogateescape")


@contextlib.contextmanager
def spelled(path: Path) -> Iterator[str]:
    """The path as UTF-8 text, for libraries that need it so; else /proc's name of the open file."""
    try:
        str(path).encode()
        yield str(path)
    except UnicodeEncodeError:
        opened = os.open(path, os.O_RDONLY)
        try:
            yield f"/proc/self/fd/{opened}"
        finally:
            os.close(opened)
