from __future__ import annotations

from pathlib import Path

import pytest

from deploy.torchserve import worker_log

DIED = "Backend worker process died."
HEAD = "2026-11-20T22:06:02,805 [INFO ] W-9001-my_model_1.0-stdout - "


def write(log: Path, *lines: str) -> Path:
    log.write_text("".join(f"{HEAD}{line}\n" for line in lines))
    return log


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Torch worker started."], None),
        ([DIED], "its worker process ended"),
        ([DIED, "Traceback (most recent call last):", "ValueError: bad"], "ValueError: bad"),
        (["REFUSED my_model: a.bin: changed", DIED, "x.ArchiveError: y"], "a.bin: changed"),
        (
            ["Failed to load model my_model, exception no memory", DIED, "RuntimeError: 500"],
            "no memory",
        ),
        (
            [
                DIED,
                "ModuleNotFoundError: No module named 'cv9'",
                "ModuleNotFoundError: No module named 'ts.torch_handler.given'",
            ],
            "ModuleNotFoundError: No module named 'cv9'",
        ),
        (["RuntimeMissing: openvino cannot be loaded", "FALLBACK my_model: it serves"], None),
    ],
)  # fmt: skip
def test_reason(tmp_path: Path, lines: list[str], expected: str | None) -> None:
    log = write(tmp_path / "workers.log", *lines)
    assert worker_log.reason(log, 0, "my_model") == expected
    assert worker_log.reason(log, 0, "other") is None


def test_only_lines_since_the_start_count(tmp_path: Path) -> None:
    log = write(tmp_path / "workers.log", DIED)
    size = log.stat().st_size
    assert worker_log.reason(log, size, "my_model") is None
    assert worker_log.reason(log, size + 1000, "my_model") is not None  # rotated: all of it is new
    assert worker_log.reason(tmp_path / "none.log", 0, "my_model") is None


def test_interpreter_that_cannot_start_speaks_on_stderr(tmp_path: Path) -> None:
    log = tmp_path / "workers.log"
    head = HEAD.replace("stdout", "stderr")
    log.write_text(f"{head}Traceback (most recent call last):\n{head}ImportError: no ts\n")
    assert worker_log.reason(log, 0, "my_model") == "ImportError: no ts"
