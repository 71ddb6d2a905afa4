"""Command lines made of dataclasses (tyro), whose every error is one line and exit status 2."""

import codecs
import contextlib
import errno
import functools
import inspect
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro

from envs.spec import GLYPHS, NAMED_MAPS

T = TypeVar("T")


def fail(message: object) -> NoReturn:
    """Say what is wrong in one line on stderr and exit with status 2."""
    with contextlib.suppress(OSError):  # of a terminal that has gone
        print(f"error: {' '.join(str(message).split())}", file=sys.stderr, flush=True)
    sys.exit(2)


def say(text: str) -> None:
    """Print a line; where the terminal or a pipe's reader has gone, the program goes on."""
    try:
        print(text, flush=True)
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EPIPE):
            raise
        _discard_output()


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def handling(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    """Handle signals within the block, in the main thread: elsewhere Python refuses it.

    A signal that was ignored when the program began (by nohup, by a shell) stays ignored, except
    SIGINT and SIGTERM.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            is_asked = number in (signal.SIGINT, signal.SIGTERM)
            if is_asked or signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def parse(
    what: Callable[..., T],
    description: str = "",
    default: T | None = None,
    args: Sequence[str] | None = None,
) -> T:
    """Build `what` (a dataclass or a function) from the command line, as `tyro.cli` does."""
    options: dict[str, Any] = {} if default is None else {"default": default}
    said = io.StringIO()
    args = [_expand(arg) for arg in (sys.argv[1:] if args is None else args)]
    args = _read_maps(args)
    try:
        with contextlib.redirect_stderr(said), NUMBERS:
            later = _later(what) if inspect.isfunction(what) else what
            made = tyro.cli(later, prog=program(), description=description, args=args, **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        message = _first_message(said.getvalue())
        if message.startswith("Unrecognized options"):
            message += ": expected one of those that --help shows"
        fail(message)
    return made() if later is not what else made


def _later(function: Callable[..., T]) -> Callable[..., Callable[[], T]]:
    """Its call, put off until the command line has been read: tyro would catch what it raises."""

    @functools.wraps(function)
    def later(*given: Any, **more: Any) -> Callable[[], T]:
        return functools.partial(function, *given, **more)

    return later


def program() -> str | None:
    """How it was started: `python -m train.dqn`; None: otherwise."""
    spec = sys.modules["__main__"].__spec__
    return None if spec is None else f"python -m {spec.name.removesuffix('.__main__')}"


def flag(args: Sequence[str], name: str) -> str | None:
    """The last value of a flag, needed before tyro can read the command line.

    ValueError: the flag has no value.
    """
    return take(args, name)[0]


def take(args: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """The last value of a flag, and the arguments without the flag.

    ValueError: the flag has no value.
    """
    value, rest, words = None, [], iter(args)
    for word in words:
        if word == name:
            value = next(words, None)
            if value is None:
                raise ValueError(f"{name} is the last word: expected a value after it")
            value = _expand(value)
        elif word.startswith(f"{name}="):
            value = _expand(word).removeprefix(f"{name}=")
        else:
            rest.append(word)
    return value, rest


def _expand(arg: str) -> str:
    """`~` and `~user` at the beginning of a value, which a shell leaves in `--flag=~/folder`."""
    flag, equals, value = arg.partition("=") if arg.startswith("--") else ("", "", arg)
    return f"{flag}{equals}{os.path.expanduser(value)}" if value.startswith("~") else arg


def _whole(text: str, *others: str) -> int:
    """An int as people write it: 10000, 10_000, 1e4. ValueError: neither that nor one of others."""
    try:
        return int(text)
    except ValueError:
        with contextlib.suppress(InvalidOperation):
            number = Decimal(text)
            if number.is_finite() and number.adjusted() < 30 and number == int(number):
                return int(number)
    raise ValueError(f"found {text}, expected {' or '.join(['a whole number', *others])}")


NUMBERS = tyro.constructors.ConstructorRegistry()


@NUMBERS.primitive_rule
def _whole_numbers(kind: Any) -> tyro.constructors.PrimitiveConstructorSpec[int | None] | None:
    if kind.type not in (int, int | None):
        return None
    none = [] if kind.type is int else ["None"]
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="|".join([*none, "INT"]),
        instance_from_str=lambda words: None if words == none else _whole(words[0], *none),
        is_instance=lambda x: isinstance(x, int) or (x is None and none != []),
        str_from_instance=lambda x: [str(x)],
    )


def _read_maps(args: Sequence[str]) -> list[str]:
    """`--env.map FILE` stands for the file's rows, in one word: a row may begin with '-'."""
    words = list(args)
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name not in ("--env.map", "--map"):
            continue
        after = i + 1 if equals else i + 2
        if not equals and i + 1 < len(words):
            value = words[i + 1]
        is_last = after >= len(words) or re.match("--[a-z]", words[after])  # no row follows
        if is_last and _is_file(value):
            words[i:after] = [f"{name}={_read(value)}\n"]
    return words


def _is_file(map_: str) -> bool:
    """Whether a map is given by the name of a file, which may not be there."""
    if not map_ or "\n" in map_ or map_ in NAMED_MAPS:
        return False
    with contextlib.suppress(OSError, ValueError):
        return os.sep in map_ or not set(map_) <= set(GLYPHS) or Path(map_).is_file()
    return False


def _read(name: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 where a byte order mark says so."""
    try:
        data = Path(name).expanduser().read_bytes()
        is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if is_wide else "utf-8-sig")
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or "no text"
        names = ", ".join(NAMED_MAPS)
        fail(f"map is {name} ({why}): expected {names}, or a text file with the rows of a map")


def _first_message(box: str) -> str:
    """tyro frames an error: title, message, a rule, help. The title is a line or in the frame."""
    lines = [line.strip(" │|+╭╮╰╯") for line in box.splitlines()]
    inside = [line for line in lines if line][1:]
    is_rule = [bool(re.fullmatch("[─-]+", line)) for line in inside]
    start = int(is_rule[0]) if is_rule else 0
    rules = (i for i in range(start, len(inside)) if is_rule[i])
    return " ".join(inside[start : next(rules, len(inside))])


def main(program: Callable[[], int | None]) -> NoReturn:
    """Run a program: bad input and failed reads or writes end it with one line, not a traceback.

    SIGTERM and SIGHUP end it as an exception does, so that half-written files are tidied up.
    """
    _mend_streams()
    with handling({signal.SIGTERM: _end, signal.SIGHUP: _end}):
        _main(program)


def _main(program: Callable[[], int | None]) -> NoReturn:
    try:
        sys.exit(program() or 0)
    except BrokenPipeError:  # the reader of a pipe has gone: nothing to tell, nobody to tell it to
        _discard_output()
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        nameless = error.errno == errno.ENOSPC and error.filename is None
        fail("what is printed cannot be written: the disk is full" if nameless else error)
    except ValueError as error:
        fail(error)
    except (MemoryError, RuntimeError) as error:
        if "by peer" in str(error):
            fail("another process of this job has ended: expected it to run on; it says why")
        full = re.search("out of memory|enough memory|allocate", str(error))
        if isinstance(error, RuntimeError) and not full:
            raise
        fail(f"out of memory ({str(error)[:200]}): expected smaller sizes")


class Ended(SystemExit):
    """A signal ends the program; other code's `sys.exit` is a plain SystemExit."""


def _end(number: int, _: object) -> NoReturn:
    raise Ended(128 + number)


def _mend_streams() -> None:
    """Replace closed streams (a daemon's) by ones that discard; a closed stderr becomes stdout.

    Escapes characters that the locale lacks instead of raising.
    """
    for number in range(3):  # else a file of ours gets the number, and what is written to it
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115  (until the process ends)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or sys.stdout
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="hrm_fast")


def _as_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a path that are no text in this locale, as they came; other characters escaped."""
    assert isinstance(error, UnicodeEncodeError)
    character = error.object[error.start]
    is_byte = "\udc80" <= character <= "\udcff"
    written = character.encode("ascii", "surrogateescape" if is_byte else "backslashreplace")
    return written, error.start + 1


codecs.register_error("hrm_fast", _as_bytes)
