"""Chromium without a window, driven over its DevTools protocol through a pipe: no driver, no port, no dependency."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SWITCHES = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-sandbox",  # it shows nothing but our own pages, and root has no sandbox
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--hide-scrollbars",
)


class BrowserError(RuntimeError):
    """The browser did not start, did not answer in time, or refused a command."""


def find_chromium() -> str | None:
    """Path of the installed browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """One page of a browser that runs as long as the ``with`` block.

    Events of the page gather in `events` until they are taken out.
    """

    def __init__(self, executable: str, timeout: float = 60.0) -> None:
        self.events: list[dict[str, Any]] = []
        self._timeout = timeout
        self._pending = b""
        self._last_id = 0
        self._session: str | None = None
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        commands_out, self._commands = os.pipe()
        self._answers, answers_in = os.pipe()
        # The browser reads from descriptor 3 and writes to 4; ours are moved out of the way first.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands_out, answers_in)]
        browser = [executable, *SWITCHES, f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", 'exec "${@:3}" 3<&"$1" 4>&"$2"', "bash", *map(str, ends), *browser],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for end in (commands_out, answers_in, *ends):
            os.close(end)

    def __enter__(self) -> Tab:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._commands)  # the browser ends with its pipe
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._answers)
        self._profile.cleanup()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result.

        Raises:
            BrowserError: If the browser refuses it, ends, or does not answer in time.
        """
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        try:
            os.write(self._commands, json.dumps(message).encode() + b"\0")
        except BrokenPipeError as error:
            raise BrowserError(f"the browser has ended before {method}") from error
        for answer in self._messages(method):
            if answer.get("id") == self._last_id:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error'].get('message')}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)
        raise AssertionError("unreachable")

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression, awaited if it is a promise.

        Raises:
            BrowserError: If it throws.
        """
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise BrowserError(f"{expression[:80]}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """The value of ``expression`` once it is true.

        Raises:
            BrowserError: If that does not happen in time.
        """
        until = time.monotonic() + self._timeout
        while time.monotonic() < until:
            if value := self.evaluate(expression):
                return value
            time.sleep(0.02)
        raise BrowserError(f"this did not become true within {self._timeout:.0f} s: {expression}")

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """Lay out the page for a screen of this size."""
        scale = 2 if phone else 1
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )

    def dark(self, wanted: bool) -> None:
        """Prefer the dark or the light scheme."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if wanted else "light"}
        self.send("Emulation.setEmulatedMedia", features=[feature])

    def open(self, address: str) -> None:
        """Go to ``address`` and wait until the page, its fonts and pictures are there."""
        self.send("Page.navigate", url=address)
        self.wait_for(
            f"document.readyState === 'complete' && location.href.split('#')[0] === {json.dumps(address)}.split('#')[0]"
        )
        self.evaluate("document.fonts.ready.then(() => true)")

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write what the screen shows, or the whole page, as PNG."""
        picture = self.send("Page.captureScreenshot", captureBeyondViewport=whole, optimizeForSpeed=True)
        path.write_bytes(base64.b64decode(picture["data"]))

    def _messages(self, method: str) -> Iterator[dict[str, Any]]:
        until = time.monotonic() + self._timeout
        while True:
            while b"\0" not in self._pending:
                ready, _, _ = select.select([self._answers], [], [], max(0.0, until - time.monotonic()))
                received = os.read(self._answers, 1 << 20) if ready else b""
                if not received:
                    what = "has ended during" if ready else f"did not answer within {self._timeout:.0f} s to"
                    raise BrowserError(f"the browser {what} {method}")
                self._pending += received
            text, _, self._pending = self._pending.partition(b"\0")
            yield json.loads(text)
