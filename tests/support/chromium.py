"""A headless Chromium, driven by its own DevTools protocol over a pipe: no package is needed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")

FLAGS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking"),
    *("--disable-component-update", "--hide-scrollbars", "--mute-audio", "--disable-dev-shm-usage"),
)


def find() -> str | None:
    """The browser's path: ``CHROMIUM`` from the environment, or one of the usual names."""
    named = os.environ.get("CHROMIUM")
    return named or next((p for p in map(shutil.which, NAMES) if p), None)


def required() -> str:
    """The browser's path; where there is none, skips the test, and fails it in continuous
    integration (``CI=true``)."""
    in_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    program = find()
    if program is None:
        import pytest  # .ci/run asks for the browser before there is any package

        lacking = f"no browser here: none of {', '.join(NAMES)}, and CHROMIUM is not set"
        if in_ci:
            pytest.fail(lacking, pytrace=False)
        pytest.skip(lacking)
    return program


class Chromium:
    """One browser with one page; a context manager.

    Attributes:
        events: what the page reported, oldest first: ``{"method": str, "params": dict}``.

    Raises:
        RuntimeError: the program is no browser, or ends at once.
    """

    def __init__(self, program: str):
        self.room = tempfile.mkdtemp(prefix="chromium-")
        command_in, self._write = os.pipe()
        self._read, command_out = os.pipe()

        # The browser reads commands from descriptor 3 and answers on 4.
        there = f'exec "$0" "$@" 3<&{command_in} 4>&{command_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", there, program, *FLAGS, f"--user-data-dir={self.room}", "about:blank"],
            pass_fds=(command_in, command_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": self.room},
            start_new_session=True,
        )
        os.close(command_in)
        os.close(command_out)
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        try:
            targets = self.ask("Target.getTargets")["targetInfos"]
            page = next(t["targetId"] for t in targets if t["type"] == "page")
            attached = self.ask("Target.attachToTarget", targetId=page, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.ask(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the browser with all its processes and removes its folder."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._write)
        os.close(self._read)
        shutil.rmtree(self.room, ignore_errors=True)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends one command and waits for its answer.

        Raises:
            RuntimeError: the browser refuses it, or has ended.
        """
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        try:
            os.write(self._write, json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            raise RuntimeError("the browser ended") from None
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                found: dict[str, Any] = answer["result"]
                return found
            self.events.append(answer)

    def open(self, page: Path | str, width: int, dark: bool = False, script: bool = True) -> None:
        """Opens a file or an address in a window of the given width; waits until it is loaded."""
        self.events.clear()
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Emulation.setScriptExecutionDisabled", value=not script)
        address = page.resolve().as_uri() if isinstance(page, Path) else page
        self.ask("Page.navigate", url=address)
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self.events.append(self._next())

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        done = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in done:
            raise RuntimeError(done["exceptionDetails"]["exception"]["description"])
        return done["result"].get("value")

    def wait(self, script: str, seconds: float = 20) -> None:
        """Waits until the expression is true; fails where it does not become so."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() < end, f"{script}: {self.run('document.body.innerText')}"
            time.sleep(0.02)

    def choose(self, field: str, *files: Path) -> None:
        """Gives files to a field of the page, as a user does."""
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector=field)["nodeId"]
        self.ask("DOM.setFileInputFiles", nodeId=node, files=[str(f.resolve()) for f in files])

    def picture(self) -> bytes:
        """The whole page as PNG."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        return base64.b64decode(shot["data"])

    def pdf(self) -> bytes:
        """The page as it is printed."""
        printed = self.ask("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        return base64.b64decode(printed["data"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            block = os.read(self._read, 1 << 16)
            if not block:
                raise RuntimeError("the browser ended")
            self._rest += block
        one, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(one)
        return found
