"""Row 37: a new version while under load, on Ray; a new version that is broken."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support import rays
from tests.support.hosted import echo
from tests.support.rays import Served, ask
from tests.support.rays_load import closed, errors, switched_once

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    echo(folder, "echo", sleep_ms=5)
    return folder


@pytest.fixture(scope="module")
def served(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    flags = ("--replicas", "1", "--drain-timeout", "5")
    with rays.network(), rays.serving(tmp_path_factory.mktemp("run"), store, *flags) as found:
        yield found


def update(archive: Path, sample: Path, *flags: str) -> tuple[int, str, str]:
    line = ("--cluster", "auto", "--update", archive, "--sample", sample, "--replicas", "1")
    done = rays.run(*line, *flags)
    return done.returncode, done.stdout, done.stderr


def test_a_store_is_served_anew_with_other_values(served: Served, store: Path) -> None:
    """Replicas with the new values begin before the old ones end."""
    line = ("--cluster", "auto", "--model-store", store, "--port", str(served.port))
    with closed(f"{served.url}/predictions/echo", clients=2) as seen:
        done = rays.run(*line, "--replicas", "1", "--queue", "50")
        assert done.returncode == 0, done.stdout + done.stderr
        time.sleep(2)
    assert errors(seen) == []
    assert len({s.pid for s in seen}) == 2


def test_row_37_a_new_version_under_load(served: Served, tmp_path: Path) -> None:
    """Row 37: zero failed requests; the versions switch once; a broken one changes nothing."""
    (tmp_path / "sample").write_bytes(b"sample")
    (tmp_path / "bad").write_bytes(b"bad")
    url = f"{served.url}/predictions/echo"
    broken = echo(tmp_path / "broken", "echo", version="1.5", broken=True)
    second = echo(tmp_path / "second", "echo", version="2.0", sleep_ms=5)
    third = echo(tmp_path / "third", "echo", version="3.0", sleep_ms=5)
    ingresses = [p for p in psutil.process_iter() if "kit-ingress" in p.name()]
    with closed(url, clients=4) as seen:
        code, _, said = update(broken, tmp_path / "sample")
        assert (code, said.splitlines()[-1]) == (
            1,
            "error: echo.mar: this machine lacks a part that the model needs",
        )
        code, _, said = update(second, tmp_path / "bad")
        assert code == 1
        assert said.splitlines()[-1].startswith("error: echo: bad -> 400")
        assert {s.version for s in seen} == {"1.0"}
        code, told, said = update(second, tmp_path / "sample")
        assert code == 0, said
        assert "model    echo 2.0 answers" in told
        time.sleep(1)
    assert errors(seen) == []
    assert len(seen) > 500
    assert switched_once(seen, "1.0", "2.0")
    assert ask(f"{url}/1.0", b"x").status == 404
    code, _, said = update(third, tmp_path / "sample", "--keep")
    assert code == 0, said
    assert [json.loads(ask(u, b"x").body)["version"] for u in (url, f"{url}/2.0")] == ["3.0", "2.0"]
    code, _, said = update(third, tmp_path / "sample")
    assert (code, "this very archive is served already" in said) == (1, True)
    assert ingresses and all(p.is_running() for p in ingresses), "the ingress was made anew"
