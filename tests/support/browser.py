"""A headless Chromium that tests drive over a pipe, by the DevTools protocol (https://chromedevtools.github.io)."""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class Browser:
    """One page in one browser. `errors` are what the page wrote to the console as errors, and what it threw.

    Without a browser on the machine the test that asks for one is skipped, with the reason, unless DETC_NEEDS_BROWSER
    is set in the environment: then it fails.
    """

    # As long as any answer may take, in seconds.
    PATIENCE = 60.0

    def __init__(self) -> None:
        program = next(filter(None, map(shutil.which, NAMES)), None)
        if program is None:
            reason = f"no browser on this machine (looked for {', '.join(NAMES)}): the page's script is not tested"
            if os.environ.get("DETC_NEEDS_BROWSER"):
                pytest.fail(reason)
            pytest.skip(reason)
        self.folder = tempfile.mkdtemp(prefix="detc-browser-")
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        arguments = [
            *(program, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
            *("--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={self.folder}", "--window-size=1400,900"),
            "about:blank",
        ]
        # Above the numbers that the browser expects, so that neither is overwritten by the other.
        high = [os.dup2(number, 100 + index) for index, number in enumerate((theirs_in, theirs_out))]
        log = os.open(os.devnull, os.O_WRONLY)
        self._process = os.posix_spawn(
            program,
            arguments,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, high[0], 3),
                (os.POSIX_SPAWN_DUP2, high[1], 4),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setpgroup=0,
        )
        for number in (*high, theirs_in, theirs_out, log):
            os.close(number)
        self._numbers = itertools.count(1)
        self._rest = b""
        self.errors: list[str] = []
        self._loaded = False
        self._session = ""
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        shutil.rmtree(self.folder, ignore_errors=True)

    def open(self, page: Path) -> None:
        self._loaded = False
        self._send("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + self.PATIENCE
        while not self._loaded:
            self._take(deadline)

    def run(self, script: str) -> Any:
        """What an expression of JavaScript gives."""
        answer = self._send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(_told(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """A click of the mouse in the middle of an element."""
        x, y = self.run(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, text: str) -> None:
        """Text as typed into what has the focus."""
        self._send("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """A key by its name, as Enter, ArrowLeft or a letter."""
        codes = {"Enter": 13, "Escape": 27, "Backspace": 8, "Tab": 9}
        text = {"text": "\r" if key == "Enter" else key} if key == "Enter" or len(key) == 1 else {}
        code = codes.get(key, ord(key) if len(key) == 1 else 0)
        self._send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self._send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + self.PATIENCE
        while True:
            answer = self._take(deadline)
            if answer.get("id") == number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def _take(self, deadline: float) -> dict[str, Any]:
        """The next message, noted if it is an event."""
        while b"\0" not in self._rest:
            if not select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            data = os.read(self._in, 1 << 16)
            if not data:
                raise ConnectionError("the browser has gone")
            self._rest += data
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        match message.get("method"), message.get("params", {}):
            case "Runtime.exceptionThrown", {"exceptionDetails": details}:
                self.errors.append(_told(details))
            case "Runtime.consoleAPICalled", {"type": "error" | "assert", "args": arguments}:
                self.errors.append(str(arguments))
            case "Log.entryAdded", {"entry": {"level": "error" | "warning", "text": told}}:
                self.errors.append(told)
            case "Network.requestWillBeSent", {"request": {"url": url}} if not url.startswith(("file:", "data:")):
                self.errors.append(f"asks for {url}")
            case "Page.loadEventFired", _:
                self._loaded = True
        return message


def _told(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details.get("text"))
