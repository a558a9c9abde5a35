"""The hub's process, sockets, shared memory and threads, without a GPU: the work stands aside."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from handlers.detection import Item
from handlers.errors import RuntimeUnfit
from handlers.gpu.hub import client, starting, wire
from handlers.gpu.hub.client import Client
from handlers.gpu.hub.pipeline import SharedPipeline
from handlers.images import Letterbox, Picture
from handlers.stages import Stages
from tests import hub_program

SLOT = hub_program.Words.slot
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[starting.Place]:
    """Where a hub of ``tests.hub_program`` is found; ended with the test."""
    folder = Path(tempfile.mkdtemp(prefix="hub-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(starting, "PROGRAM", "tests.hub_program")
    found = starting.Place(ROOT, "accelerated", 0, 1)
    yield found
    for pid in running(folder):
        os.kill(pid, signal.SIGKILL)
    if found._child is not None:
        found._child.wait()
    shutil.rmtree(folder)


Worker = Callable[[], Client]


@pytest.fixture
def worker(place: starting.Place) -> Iterator[Worker]:
    """Makes clients of one hub, each as a worker of its own; closed with the test."""
    made: list[Client] = []

    def make() -> Client:
        made.append(Client(place, SLOT))
        return made[-1]

    yield make
    for one in made:
        one.close()


def running(folder: Path) -> list[int]:
    """Hubs whose socket lies in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if b"tests.hub_program" in words and str(folder).encode() in words:
            found.append(int(path.parent.name))
    return found


def words(*given: object) -> list[Item]:
    return [Item(100, 200, None, str(word).encode()) for word in given]


def numbers(found: client.Found) -> list[list[float]]:
    return [rows[:, 1].tolist() for rows in found.rows]


def test_every_worker_gets_its_own_answers(place: starting.Place, worker: Worker) -> None:
    def work(first: int) -> None:
        mine = worker()
        for begin in range(first, first + 2000, 40):
            count = 1 + begin % 37
            found = mine.ask(words(*range(begin, begin + count)))
            assert numbers(found) == [[n] for n in range(begin, begin + count)]
            assert [p[1] for p in found.places] == list(range(begin, begin + count))

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, n) for n in (1, 10_000, 20_000, 30_000)]:
            done.result()
    assert len(running(place.path.parents[1])) == 1


def test_pictures_of_several_workers_share_a_batch(
    place: starting.Place, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(hub_program.SLOW, "0.1")
    workers = [worker() for _ in range(12)]
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(w.ask, words(n)) for n, w in enumerate(workers, 1)]
        found = [a.result() for a in asked]
    assert [numbers(f) for f in found] == [[[n]] for n in range(1, 13)]
    assert max(f.stages["infer"] for f in found) > 2


def test_a_picture_decoded_by_the_worker_comes_as_pixels(
    place: starting.Place, worker: Worker
) -> None:
    pixels = np.full((40, 50, 3), 3, np.uint8)
    pixels[20, 20] = 77
    item = Item(100, 200, Picture(pixels[::2, ::-1], 100, 200), b"a PNG")
    found = worker().ask([item, *words(5)])
    assert numbers(found) == [[77], [5]]


def test_memory_grows_with_the_pictures_and_is_let_go(
    place: starting.Place, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "KEPT_BYTES", 3 << 20)
    mine = worker()
    for size in (10, 1 << 20, 9 << 20, 10):
        padded = [Item(1, 1, None, str(n).encode().ljust(size)) for n in (8, 9)]
        assert numbers(mine.ask(padded)) == [[8], [9]]
        assert mine._arena is not None
        assert mine._arena.size <= 3 * size + 2 * SLOT + (3 << 20)


def test_a_bad_picture_fails_its_own_batch_only(
    place: starting.Place, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(hub_program.SLOW, "0.05")
    workers = [worker() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        given = [words("bad", n) if n == 3 else words(n, n) for n in range(6)]
        asked = [pool.submit(w.ask, g) for w, g in zip(workers, given, strict=True)]
        for n, answer in enumerate(asked):
            if n == 3:
                with pytest.raises(RuntimeError, match=r"^not a JPEG$"):
                    answer.result()
            else:
                assert numbers(answer.result()) == [[n], [n]]
    assert numbers(workers[3].ask(words(4))) == [[4]]


@pytest.mark.parametrize("word", ["die", "broken"])
def test_a_hub_that_ends_is_replaced(place: starting.Place, worker: Worker, word: str) -> None:
    mine, other = worker(), worker()
    before = mine.greeting["pid"]
    with pytest.raises(RuntimeError, match="hub ended while"):
        mine.ask(words(1, word))
    assert mine.greeting["pid"] != before
    assert numbers(other.ask(words(2))) == [[2]]  # asks again by itself
    assert other.greeting["pid"] == mine.greeting["pid"]
    with pytest.raises(RuntimeError, match="hub ended twice"):
        mine.ask(words(word))
    assert numbers(mine.ask(words(3, 4))) == [[3], [4]]


def test_a_hub_that_hangs_is_ended(
    place: starting.Place, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PATIENCE_S", 0.5)
    mine = worker()
    before = mine.greeting["pid"]
    with pytest.raises(RuntimeError, match=r"hub ended while it worked .timed out"):
        mine.ask(words("hang", 1))
    assert running(place.path.parents[1]) == [mine.greeting["pid"]] != [before]


def test_why_a_model_cannot_run_reaches_the_worker(
    place: starting.Place, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(hub_program.UNFIT, "the engine was built for another GPU: not loaded")
    for _ in range(2):
        with pytest.raises(RuntimeUnfit, match=r"^the engine was built for another GPU"):
            worker()
    monkeypatch.setenv(hub_program.UNFIT, "crash")
    wait_for_end(place)
    with pytest.raises(RuntimeUnfit, match="ended: the driver is gone"):
        worker()


def test_a_killed_worker_leaves_the_others_served(place: starting.Place, worker: Worker) -> None:
    mine = worker()
    code = (
        "import sys, time; from pathlib import Path; from handlers.gpu.hub import starting, client;"
        "from tests.unit.test_hub import words, SLOT; starting.PROGRAM = 'tests.hub_program';"
        "c = client.Client(starting.Place(Path(sys.argv[1]), 'accelerated', 0, 1), SLOT);"
        "c.ask(words(1)); print('asked', flush=True)\nwhile True: c.ask(words(*range(30)))"
    )
    environment = {**os.environ, "TMPDIR": str(place.path.parents[1])}
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE,
    )  # fmt: skip
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"asked\n"
        time.sleep(0.3)
        other.kill()
    assert numbers(mine.ask(words(*range(50)))) == [[n] for n in range(50)]
    assert len(running(place.path.parents[1])) == 1


def test_the_hub_goes_with_its_last_worker(place: starting.Place, worker: Worker) -> None:
    first, second = worker(), worker()
    first.close()
    time.sleep(4.5)
    assert numbers(second.ask(words(6))) == [[6]]
    second.close()
    wait_for_end(place)
    assert sorted(p.suffix for p in place.path.parent.iterdir()) == [".lock"]
    assert numbers(worker().ask(words(7))) == [[7]]


def wait_for_end(place: starting.Place) -> None:
    limit = time.monotonic() + 15
    while running(place.path.parents[1]):
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_a_socket_that_nobody_listens_at_is_replaced(place: starting.Place, worker: Worker) -> None:
    place.path.touch()
    assert numbers(worker().ask(words(1))) == [[1]]


def test_a_folder_that_others_can_enter_is_refused(place: starting.Place) -> None:
    place.path.parent.chmod(0o755)
    with pytest.raises(RuntimeUnfit, match="must be a folder that only this user can enter"):
        starting.own_folder()


def test_what_is_not_the_protocol_closes_the_connection_only(
    place: starting.Place, worker: Worker
) -> None:
    mine = worker()
    for message in ({"number": 1}, {"pictures": [[0, 5, 1, 1, None]], "number": 1, "every": False}):
        connection, _ = place.connect()
        wire.send(connection, message)
        with pytest.raises(wire.Gone):
            wire.receive(connection)
        connection.close()
    connection, _ = place.connect()
    connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(wire.Gone):
        wire.receive(connection)
    connection.close()
    assert numbers(mine.ask(words(1))) == [[1]]


def test_boxes_are_suppressed_by_the_worker(place: starting.Place, worker: Worker) -> None:
    passport: Any = SimpleNamespace(settings=hub_program.SETTINGS)
    stages = Stages()
    pipeline = SharedPipeline(worker(), passport, stages)
    (boxes, lies), (other, _) = pipeline.boxes(words(30, 40))
    assert lies == Letterbox(0.5, 30, 7)
    np.testing.assert_allclose(boxes, [[30, 30, 40, 40, 0.9, 0]])
    assert other[0, 0] == 40
    assert stages._ms["infer"] > 0
    assert stages._ms["wait"] >= 0
    (boxes, _), (other, _) = pipeline.boxes(words("crowd", 40))
    assert len(boxes) == len(other) == 3  # all of them, which the hub suppresses
