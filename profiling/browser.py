"""A headless Chromium for tests and pictures, spoken to through two pipes: no port, no network."""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MACOS = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
MISSING = "no Chromium or Chrome on the PATH: `apt-get install chromium` brings one"
FLAGS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"),
    *("--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"),
    *("--hide-scrollbars", "about:blank"),
)
KEYS = {" ": ("Space", 32), "End": ("End", 35), "Home": ("Home", 36), "Tab": ("Tab", 9)}
KEYS |= {f"Arrow{way}": (f"Arrow{way}", 37 + i) for i, way in enumerate(("Left", "Up"))}
KEYS |= {f"Arrow{way}": (f"Arrow{way}", 39 + i) for i, way in enumerate(("Right", "Down"))}


def find() -> str | None:
    """The program, if there is one."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or (MACOS if Path(MACOS).exists() else None)


class Tab:
    """One page, spoken to in the DevTools protocol; `trouble`: what its console complained of."""

    def __init__(self, write: int, read: int) -> None:
        self.write, self.read = write, read
        self.count, self.rest, self.session = 0, b"", ""
        self.trouble: list[str] = []
        self.requests: list[str] = []
        self.seen: list[str] = []  # events
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.count:
            self._note(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + 60
        while b"\0" not in self.rest:
            assert time.monotonic() < end, "the browser says nothing"
            if select.select([self.read], [], [], 1)[0]:
                got = os.read(self.read, 1 << 20)
                assert got, "the browser has gone"
                self.rest += got
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        name, told = event.get("method", ""), event.get("params", {})
        self.seen.append(name)
        bad = name == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert")
        if bad or name in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.trouble.append(json.dumps(told))
        if name == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])

    def open(self, path: Path) -> None:
        self.seen.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while "Page.loadEventFired" not in self.seen:
            self._note(self._next())

    def js(self, expression: str) -> Any:
        """The value of an expression on the page."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def until(self, expression: str) -> None:
        end = time.monotonic() + 20
        while not self.js(expression):
            assert time.monotonic() < end, f"never came true: {expression}"
            time.sleep(0.05)

    def press(self, key: str, shift: bool = False) -> None:
        code, number = KEYS[key]
        given = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": 8 * shift}
        text = {"text": key} if key == " " else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **given, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **given)

    def look(self, dark: bool = False, width: int = 1280, height: int = 900) -> None:
        """Colour scheme and size; narrow ones as on a phone."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.call("Emulation.setDeviceMetricsOverride", mobile=width < 700, **size)

    def picture(self, path: Path) -> None:
        """All of the page as a PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


def _moved(fd: int) -> int:
    """Out of the way of 3 and 4, which are the browser's."""
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(fd)
    return high


@contextlib.contextmanager
def tab(program: str) -> Iterator[Tab]:
    """A page of a browser of its own, whose profile is thrown away."""
    its_read, write, read, its_write = (_moved(fd) for fd in (*os.pipe(), *os.pipe()))
    moves = [(os.POSIX_SPAWN_DUP2, its_read, 3), (os.POSIX_SPAWN_DUP2, its_write, 4)]
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, f"--user-data-dir={profile}", *FLAGS]
        process = os.posix_spawn(program, command, os.environ, file_actions=[*moves, *quiet])
        try:
            os.close(its_read)
            os.close(its_write)
            yield Tab(write, read)
        finally:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            os.close(write)
            os.close(read)
