"""Command lines made of dataclasses (tyro), whose every error is one line and exit status 2."""

import codecs
import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro

from envs.spec import GLYPHS, NAMED_MAPS

T = TypeVar("T")


def fail(message: object) -> NoReturn:
    """Say what is wrong in one line on stderr and exit with status 2."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(2)


def parse(
    what: Callable[..., T],
    description: str = "",
    default: T | None = None,
    args: Sequence[str] | None = None,
) -> T:
    """Build `what` (a dataclass or a function) from the command line, as `tyro.cli` does."""
    options: dict[str, Any] = {} if default is None else {"default": default}
    said = io.StringIO()
    args = _read_maps(sys.argv[1:] if args is None else args)
    try:
        with contextlib.redirect_stderr(said), NUMBERS:
            return tyro.cli(what, description=description, args=args, **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        fail(_first_message(said.getvalue()))


def flag(args: Sequence[str], name: str) -> str | None:
    """The value of a flag, read before tyro knows what the command line is built on."""
    return take(args, name)[0]


def take(args: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """The value of a flag, and the arguments without it."""
    for i, arg in reversed(list(enumerate(args))):  # the last one counts, as for all flags
        if arg == name and i + 1 < len(args):
            return args[i + 1], [*args[:i], *args[i + 2 :]]
        if arg.startswith(f"{name}="):
            return arg.removeprefix(f"{name}="), [*args[:i], *args[i + 1 :]]
    return None, list(args)


def _whole(text: str) -> int:
    """An int as people write it: 10000, 10_000, 1e4."""
    try:
        return int(text)
    except ValueError:
        with contextlib.suppress(InvalidOperation):
            number = Decimal(text)
            if number.is_finite() and number.adjusted() < 30 and number == int(number):
                return int(number)
    raise ValueError(f"found {text}, expected a whole number")


NUMBERS = tyro.constructors.ConstructorRegistry()


@NUMBERS.primitive_rule
def _whole_numbers(kind: Any) -> tyro.constructors.PrimitiveConstructorSpec[int] | None:
    if kind.type is not int:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: _whole(words[0]),
        is_instance=lambda x: isinstance(x, int),
        str_from_instance=lambda x: [str(x)],
    )


def _read_maps(args: Sequence[str]) -> list[str]:
    """`--env.map FILE` stands for the file's rows, in one word: a row may begin with '-'."""
    words = list(args)
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name not in ("--env.map", "--map"):
            continue
        if not equals and i + 1 < len(words):
            value = words[i + 1]
        if _is_file(value):
            words[i : i + 1 if equals else i + 2] = [f"{name}={_read(value)}\n"]
    return words


def _is_file(map_: str) -> bool:
    """Whether a map is given by the name of a file, which may not be there."""
    if not map_ or "\n" in map_ or map_ in NAMED_MAPS:
        return False
    with contextlib.suppress(OSError, ValueError):
        drawn = set(map_) <= set(GLYPHS)
        return os.sep in map_ or Path(map_).is_file() or (Path(map_).suffix != "" and not drawn)
    return False


def _read(name: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 where a byte order mark says so."""
    try:
        data = Path(name).expanduser().read_bytes()
        is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if is_wide else "utf-8-sig")
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or "no text"
        fail(f"map is {name}: {why}, expected a text file with the rows of a map")


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

    SIGTERM ends it as an exception does, so that half-written files are tidied up.
    """
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        sys.exit(program() or 0)
    except BrokenPipeError:  # the reader of a pipe has gone: nothing to tell, nobody to tell it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError) as error:
        fail(error)
    except (MemoryError, RuntimeError) as error:
        if "by peer" in str(error):
            fail("another process of this job has ended: expected it to run on; it says why")
        full = re.search("out of memory|enough memory|allocate", str(error))
        if isinstance(error, RuntimeError) and not full:
            raise
        fail(f"out of memory ({str(error)[:200]}): expected smaller sizes")
    finally:
        signal.signal(signal.SIGTERM, before)
