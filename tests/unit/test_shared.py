"""What the processes of one test run share; flock holds between threads that open files alike."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import shared


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shared, "folder", lambda: tmp_path)
    return tmp_path


def test_a_file_is_made_by_the_first_that_asks(folder: Path) -> None:
    count = []

    @shared.once
    def made(name: str) -> Path:
        time.sleep(0.05)
        count.append(name)
        path = folder / name
        path.write_text("x")
        return path

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(made, ["a", "a", "b", "a"]))
    assert found == [folder / name for name in "aaba"]
    assert sorted(count) == ["a", "b"]


def test_who_failed_leaves_it_to_the_next(folder: Path) -> None:
    fails = [True]

    @shared.once
    def made() -> Path:
        if fails.pop():
            fails.append(False)
            raise OSError("no room")
        return folder

    with pytest.raises(OSError, match="no room"):
        made()
    assert made() == folder


def test_who_is_alone_meets_nobody(folder: Path) -> None:
    spans: list[tuple[bool, float, float]] = []

    def work(alone: bool) -> None:
        with shared.turn(alone):
            begin = time.monotonic()
            time.sleep(0.05)
            spans.append((alone, begin, time.monotonic()))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, [False, False, True, False, True, False]))

    def meets(one: tuple[bool, float, float], other: tuple[bool, float, float]) -> bool:
        return one is not other and one[1] < other[2] and other[1] < one[2]

    assert not [s for s in spans if s[0] and any(meets(s, other) for other in spans)]
    assert [s for s in spans if any(meets(s, other) for other in spans)], "the others share"
