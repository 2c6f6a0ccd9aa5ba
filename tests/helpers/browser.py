"""A headless Chromium that a test drives over a pipe: keys, width, requests, screenshots. No package is needed."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KEYS = {"Tab": 9, "Space": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}
SECONDS = 60
"""After which a page that does not answer is given up."""


class Browser:
    """One page of a browser of its own; ``requests`` are the addresses it asked for, ``complaints`` its console's."""

    def __init__(self, profile: Path) -> None:
        (child_reads, self._commands), (self._answers, child_writes) = os.pipe(), os.pipe()
        quiet = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions"]
        quiet += ["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"]
        command = [str(CHROMIUM), *quiet, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]

        def as_3_and_4() -> None:  # the descriptors that --remote-debugging-pipe uses
            reading, writing = os.dup(child_reads), os.dup(child_writes)
            os.dup2(reading, 3), os.dup2(writing, 4)

        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False, preexec_fn=as_3_and_4
        )
        os.close(child_reads), os.close(child_writes)
        self._buffer, self._count, self._session = b"", 0, None
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._events: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait(SECONDS)
        os.close(self._commands), os.close(self._answers)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol, and its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], SECONDS)
            part = os.read(self._answers, 1 << 20) if ready else b""
            if not part:
                raise RuntimeError(f"{CHROMIUM} has stopped, or did not answer in {SECONDS} s")
            self._buffer += part
        first, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(first)

    def _note(self, event: dict[str, Any]) -> None:
        name, values = event.get("method", ""), event.get("params", {})
        self._events.append(name)
        if name == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif name in ("Log.entryAdded", "Runtime.exceptionThrown"):
            self.complaints.append(json.dumps(values))

    def open(self, page: Path, width: int, height: int = 900) -> None:
        """Load a file at a width in CSS pixels."""
        phone = width < 500
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.requests.clear(), self.complaints.clear(), self._events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._note(self._next())

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """A key, down and up, as from a keyboard."""
        for kind in ("rawKeyDown", "keyUp"):
            said = " " if key == "Space" else key
            self.call("Input.dispatchKeyEvent", type=kind, key=said, code=key, windowsVirtualKeyCode=KEYS[key])

    def screenshot(self) -> bytes:
        """PNG of what is in the window."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])
