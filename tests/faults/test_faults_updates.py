"""Row 37: a new version while under load; a new version that is broken."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.errors import KitError
from tests.support.rays_load import Seen, closed, errors, switched_once
from tests.support.updating import Updated, updated


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Updated]:
    with updated(tmp_path_factory.mktemp("updates"), sleep_ms=5) as found:
        yield found


def through(served: Updated, requests: int, clients: int) -> list[Seen]:
    """A broken version, one that fails its sample, and a good one, under load."""
    before, workers = served.file.read_bytes(), served.settings.workers
    bad = served.folder / "bad"
    bad.write_bytes(b"bad")
    good = served.archive("2.0", sleep_ms=5)
    with closed(served.url, clients) as seen:
        while len(seen) < requests // 3:
            time.sleep(0.01)
        with pytest.raises(KitError, match="this machine lacks a part that the model needs"):
            served.update(served.archive("1.5", broken=True))
        with pytest.raises(KitError, match="bad -> 400: a bad body came"):
            served.update(good, sample=bad)
        assert {s.version for s in seen} == {"1.0"}
        assert served.file.read_bytes() == before
        assert served.has_workers(workers)
        while len(seen) < requests // 2:
            time.sleep(0.01)
        assert served.update(good) == 0
        last = len(seen)
        while len(seen) < max(requests, last + 50):
            time.sleep(0.01)
    return seen


def test_row_37_a_new_version_under_load(served: Updated) -> None:
    """Row 37: zero failed requests; the versions switch once; a broken one changes nothing."""
    seen = through(served, requests=300, clients=2)
    assert errors(seen) == []
    assert switched_once(seen, "1.0", "2.0")
    assert served.described() == ("2.0", ["2.0"])
    assert served.has_workers(1)
    assert served.file.read_bytes() == served.archive("2.0", sleep_ms=5).read_bytes()


@pytest.mark.slow
def test_row_37_a_request_in_work_is_answered_by_the_version_that_it_came_to(
    served: Updated,
) -> None:
    """Row 37: the old version ends after its last answer, however long that takes."""
    served.update(served.archive("3.0", sleep_ms=2500))
    slow = http.client.HTTPConnection("127.0.0.1", served.settings.port, timeout=30)
    slow.request("POST", "/predictions/echo", b"x")
    time.sleep(0.3)
    served.update(served.archive("4.0"))
    answer = slow.getresponse()
    told = json.loads(answer.read())
    slow.close()
    assert (answer.status, told.get("version")) == (200, "3.0")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_row_37_ten_thousand_requests(tmp_path: Path) -> None:
    """Row 37: the same with 10,000 requests of eight clients; the figures are printed."""
    with updated(tmp_path, sleep_ms=5, workers=2) as served:
        begin = time.monotonic()
        seen = through(served, requests=10_000, clients=8)
        seconds = time.monotonic() - begin
    told = {v: sum(s.version == v for s in seen) for v in ("1.0", "2.0")}
    took = sorted(1e3 * (s.answered - s.due) for s in seen)
    print(
        f"\n{len(seen)} requests in {seconds:.1f} s, {len(errors(seen))} failed, {told},"
        f" p50 {took[len(took) // 2]:.0f} ms, p99 {took[len(took) * 99 // 100]:.0f} ms,"
        f" longest {took[-1]:.0f} ms"
    )
    assert len(seen) >= 10_000
    assert errors(seen) == []
    assert switched_once(seen, "1.0", "2.0")
