"""The process that holds a detector on the GPU for all workers, on a real GPU."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers import passport as passports
from handlers.passport import Passport
from handlers.runtimes.shared import Shared
from repack import archive
from tests.support.built import PICTURES
from tests.support.gpu_detector import SAMPLE, Served, save

pytestmark = pytest.mark.gpu

FILES = [path.read_bytes() for path in sorted(PICTURES.glob("*.jpg"))]


class Worker(Served):
    """A worker of a server, as the GPU server sees it."""

    def __init__(self, folder: Path):
        super().__init__(folder, shared=True)

    @property
    def runtime(self) -> Shared:
        runtime = self.entry.handler.runtime
        assert isinstance(runtime, Shared)
        return runtime


@pytest.fixture(scope="module")
def unpacked(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = tmp_path_factory.mktemp("gpu_server") / "archive"
    archive.unpack(packed, whole)
    return whole


@pytest.fixture(scope="module")
def workers(unpacked: Path) -> Iterator[list[Worker]]:
    made = [Worker(unpacked) for _ in range(3)]
    yield made
    for worker in made:
        worker.runtime.client.close()


def same(have: dict[str, Any], want: dict[str, Any]) -> None:
    """The same answer: boxes may differ by what another batch size rounds."""
    assert have["runtime"] == want["runtime"]
    assert have["image"] == want["image"]
    left = list(want["detections"])
    assert len(have["detections"]) == len(left)
    for mine in have["detections"]:  # of nearly equal confidence, any may come first
        theirs = next(t for t in left if t["class"] == mine["class"] and near(mine, t))
        left.remove(theirs)


def near(mine: dict[str, Any], theirs: dict[str, Any]) -> bool:
    apart = np.abs(np.subtract(mine["box"], theirs["box"])).max()
    return abs(mine["confidence"] - theirs["confidence"]) < 0.02 and bool(apart < 1.5)


def test_workers_that_share_answer_like_one_alone(workers: list[Worker], unpacked: Path) -> None:
    alone = Served(unpacked)
    for files in (FILES[:1], FILES, FILES * 4):
        statuses, want = alone.ask(*files)
        assert set(statuses) == {200}
        have = workers[0].ask(*files)[1]
        for mine, theirs in zip(have, want, strict=True):
            same(mine, theirs)
    (_, (once,)) = alone.ask(FILES[0])
    for _ in range(20):  # from some time on by a recorded letterbox
        same(workers[0].ask(FILES[0])[1][0], once)
        same(workers[0].ask(FILES[0], FILES[0])[1][1], once)
    assert len({w.runtime.client.greeting["pid"] for w in workers}) == 1


def test_they_ask_at_once_and_each_gets_its_own(workers: list[Worker]) -> None:
    want = [workers[0].ask(data)[1][0] for data in FILES]

    def work(worker: Worker, first: int) -> None:
        for round_ in range(12):
            mine = [(first + round_ + i) % len(FILES) for i in range(1 + (first + round_) % 9)]
            statuses, have = worker.ask(*(FILES[i] for i in mine))
            assert set(statuses) == {200}
            for i, answer in zip(mine, have, strict=True):
                same(answer, want[i])

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(work, w, 3 * n) for n, w in enumerate(workers)]:
            done.result()


def test_pictures_that_the_gpu_does_not_decode(workers: list[Worker], unpacked: Path) -> None:
    png = Image.open(SAMPLE).convert("L")
    grey = save(png)
    cut = FILES[0][: len(FILES[0]) // 2] + b"\xff\xd9"
    alone = Served(unpacked).ask(grey, FILES[1], b"no picture", cut)
    shared = workers[1].ask(grey, FILES[1], b"no picture", cut)
    assert shared[0] == alone[0]
    same(shared[1][0], alone[1][0])
    same(shared[1][1], alone[1][1])
    assert shared[1][2] == alone[1][2]


def test_an_engine_of_another_gpu_is_refused_by_the_server(
    unpacked: Path, tmp_path: Path, packed: Path
) -> None:
    folder = tmp_path / "foreign"
    archive.unpack(packed, folder)
    passport = Passport.read(folder)
    accelerated = passport.artefacts["accelerated"]
    built = {**accelerated.options.built, "gpu": "NVIDIA Foreign"}
    changed = replace(accelerated, options=replace(accelerated.options, built=built))
    record = replace(passport, artefacts={**passport.artefacts, "accelerated": changed})
    (folder / passports.FILE).write_text(record.to_json())
    worker = Worker(folder)
    statuses, (answer,) = worker.ask(FILES[0])
    assert statuses == [200]
    assert "NVIDIA Foreign" in answer["runtime"]["fallback"]
    assert "portable" in answer["runtime"]["fallback"]
