"""A real browser without a window, driven over its DevTools pipe with the standard library alone."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_SECONDS = 120.0  # a loaded machine starts a browser slowly

# the browser reads commands from descriptor 3 and writes to 4, whatever numbers the pipes have here
LAUNCHER = (
    "import fcntl, os, sys; ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]; "
    "os.dup2(ends[0], 3); os.dup2(ends[1], 4); os.execv(sys.argv[3], sys.argv[3:])"
)
SWITCHES = (
    "--headless=new",
    "--no-sandbox",  # containers run as root; the only pages are our own files
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--hide-scrollbars",
    "--mute-audio",
    "--no-first-run",
    "--no-default-browser-check",
    "--password-store=basic",
)


def find_browser() -> str | None:
    """The program, or None; CELLKIT_BROWSER names another."""
    return next(filter(None, map(shutil.which, [os.environ.get("CELLKIT_BROWSER", ""), *NAMES])), None)


def absence() -> None:
    """Skip the test, or fail it where CELLKIT_BROWSER_TESTS=required: then a missing browser is a broken machine."""
    reason = f"no browser found ({', '.join(NAMES)}); apt-get install chromium, or set CELLKIT_BROWSER"
    (pytest.fail if os.environ.get("CELLKIT_BROWSER_TESTS") == "required" else pytest.skip)(reason)


class Browser:
    """One page of a running browser; what it reports is collected in ``events``."""

    def __init__(self, commands: int, answers: int) -> None:
        self.commands, self.answers = commands, answers
        self.events: list[dict[str, Any]] = []
        self.buffer = b""
        self.sent = 0
        self.session: str | None = None

    def attach(self) -> None:
        """Open an empty page and listen to everything that happens on it."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its result."""
        self.sent += 1
        number = self.sent
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.commands, data) :]
        return self._until(lambda answer: answer.get("id") == number, method)["result"]

    def load(self, path: Path, width: int, *, dark: bool = False) -> None:
        """Open a file at a width of the window, and forget what earlier pages reported."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        if not self.named("Page.loadEventFired"):
            self._until(lambda answer: answer.get("method") == "Page.loadEventFired", path.name)
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page, promises awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self) -> bytes:
        """The whole page as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def named(self, method: str) -> list[dict[str, Any]]:
        """What the browser reported under a name since the page was opened."""
        return [event["params"] for event in self.events if event["method"] == method]

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings of the console, uncaught exceptions, and what the browser's log says."""
        console = [e for e in self.named("Runtime.consoleAPICalled") if e["type"] in ("error", "warning", "assert")]
        thrown = self.named("Runtime.exceptionThrown")
        logged = [e for e in self.named("Log.entryAdded") if e["entry"]["level"] in ("error", "warning")]
        return [json.dumps(event) for event in [*console, *thrown, *logged]]

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for, without those that carry their content themselves."""
        addresses = [event["request"]["url"] for event in self.named("Network.requestWillBeSent")]
        return [address for address in addresses if not address.startswith("data:")]

    def _until(self, wanted: Any, what: str) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            for answer in self._answers(deadline, what):
                if "method" in answer:
                    self.events.append(answer)
                if wanted(answer):
                    assert "error" not in answer, f"{what}: {answer['error']}"
                    return answer

    def _answers(self, deadline: float, what: str) -> Iterator[dict[str, Any]]:
        """The next message; at most one, so that none is lost."""
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.answers], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self.answers, 1 << 20) if ready else b""
            assert piece, f"the browser did not answer: {what}"
            self.buffer += piece
        message, _, self.buffer = self.buffer.partition(b"\0")
        yield json.loads(message)


@contextmanager
def running(program: str, profile: Path, switches: Sequence[str] = SWITCHES) -> Iterator[Browser]:
    """A browser with an empty page, stopped at the end."""
    commands_end, commands = os.pipe()
    answers, answers_end = os.pipe()
    for end in (commands, answers):
        fcntl.fcntl(end, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    launch = [sys.executable, "-c", LAUNCHER, str(commands_end), str(answers_end), program]
    process = subprocess.Popen(
        [*launch, *switches, f"--user-data-dir={profile}"],
        pass_fds=(commands_end, answers_end),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(profile)},  # nothing is written into the home of whoever runs the tests
    )
    os.close(commands_end)
    os.close(answers_end)
    try:
        browser = Browser(commands, answers)
        browser.attach()
        yield browser
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)
        os.close(commands)
        os.close(answers)
