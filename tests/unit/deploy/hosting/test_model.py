"""An archive hosted in this process: its answers, and what is refused before any of it runs."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.hosting import code
from deploy.hosting.code import HostError
from deploy.hosting.model import Model, Request
from repack import archive
from tests.support.archives import write_archive
from tests.support.hosted import CODE, echo

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return echo(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def model(packed: Path) -> Iterator[Model]:
    made = Model(packed)
    yield made
    made.close()


def test_each_item_has_its_own_headers_status_and_type(model: Model) -> None:
    text = Request(b"four", {"Accept": "text/plain"})
    first = model.answer([Request(b"one"), text, Request(b"bad")])
    assert [a.status for a in first] == [200, 200, 400]
    assert [a.media_type for a in first] == ["application/json", "text/plain", "application/json"]
    assert first[1].body == b"4"
    assert [a.headers.get("X-Batch") for a in first] == ["2", "2", None]
    assert json.loads(first[2].body) == {
        "code": 400,
        "type": "BadInput",
        "message": "a bad body came; expected any other",
    }
    again = model.answer([Request(b"bad"), Request(b"one")])
    assert [a.status for a in again] == [400, 200]
    assert "X-Batch" not in again[0].headers


def test_a_client_cannot_ask_for_the_description_in_place_of_an_answer(model: Model) -> None:
    (answer,) = model.answer([Request(b"one", {"Describe": "true"})])
    assert json.loads(answer.body)["bytes"] == 3
    assert model.describe()["model"] == {"name": "echo", "version": "1.0", "task": "tensors"}


def test_settings_for_an_archive_that_does_not_read_them_are_refused_alone(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [Request(b"one", {"X-Parameters": "conf=0.5"}), Request(b"one")]
    assert "expected none" in json.loads(model.answer(asked)[0].body)["message"]  # by its handler
    monkeypatch.delitem(model.passport["files"], "handlers/parameters.py")
    refused, answered = model.answer(asked)
    assert (refused.status, answered.status) == (400, 200)
    assert "the archive of echo does not read" in json.loads(refused.body)["message"]


def test_a_form_that_cannot_be_read_is_refused_alone(model: Model) -> None:
    form = Request(b"--x\r\n", {"content-type": "multipart/form-data; boundary=x"})
    fields = Request(b"a&" * 70, {"content-type": "application/x-www-form-urlencoded"})
    answers = model.answer([form, Request(b"one"), fields])
    assert [a.status for a in answers] == [400, 200, 413]


def test_json_that_would_take_too_much_memory(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIT_VOLUME_MEMORY_MB", "1")
    body = b"[" + b"{}," * 20_000 + b"{}]"
    (answer,) = model.answer([Request(body, {"Content-Type": "application/json"})])
    assert answer.status == 413


def test_threads_of_the_caller_wait_for_each_other(model: Model) -> None:
    def ask(n: int) -> bool:
        kinds = [Request(b"bad"), Request(b"x" * n)] if n % 2 else [Request(b"x" * n)]
        answers = model.answer(kinds)
        return json.loads(answers[-1].body)["bytes"] == n and len(answers) == len(kinds)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(1, 200)))


def test_the_settings_of_the_archive(packed: Path, tmp_path: Path, model: Model) -> None:
    assert model.batch_sizes == ()
    sized = Model(echo(tmp_path, "sized", batches=(8, 1)), name="other")
    assert (sized.batch_sizes, sized.name, sized.version) == ((1, 8), "other", "1.0")
    sized.close()


def test_figures_reach_the_sink_under_the_models_name(packed: Path) -> None:
    hosted = Model(packed, name="mine")
    hosted.answer([Request(b"one"), Request(b"bad")])
    values = hosted.metrics.values()  # type: ignore[attr-defined]
    labels = (("ModelName", "mine"), ("Level", "Model"))
    assert values["handler_items", (*labels, ("Outcome", "ok"))] == 1
    assert values["handler_items", (*labels, ("Outcome", "rejected"))] == 1
    assert values["handler_fallback", (*labels, ("Runtime", "nothing"))] == 0
    hosted.close()


def test_an_unpacked_archive_and_the_folder_of_a_closed_one(packed: Path, tmp_path: Path) -> None:
    archive.unpack(packed, tmp_path / "folder")
    hosted = Model(tmp_path / "folder")
    hosted.close()
    assert (tmp_path / "folder" / "passport.json").exists()
    with pytest.raises(HostError, match=r"gone: no passport.json"):
        (tmp_path / "gone").mkdir()
        Model(tmp_path / "gone")


def test_what_is_refused_before_it_runs(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"cut.mar: no whole archive"):
        cut = tmp_path / "cut.mar"
        cut.write_bytes(packed.read_bytes()[:-100])
        Model(cut)
    with pytest.raises(HostError, match=r"stock.mar: no passport.json: not made by this kit"):
        with zipfile.ZipFile(tmp_path / "stock.mar", "w") as z:
            z.writestr("MAR-INF/MANIFEST.json", '{"model": {"handler": "h.py"}}')
        Model(tmp_path / "stock.mar")
    with pytest.raises(HostError, match=r"plain.mar: its passport names no handlers/entry.py"):
        Model(write_archive(tmp_path, "plain"))
    with pytest.raises(HostError, match=r"given.py is missing or was changed"):
        archive.unpack(packed, tmp_path / "changed")
        (tmp_path / "changed" / "given.py").write_text("raise SystemExit('it ran')")
        Model(tmp_path / "changed")
    with pytest.raises(HostError, match=r"broken.mar: this machine lacks a part"):
        Model(echo(tmp_path, "broken", broken=True))


@pytest.mark.parametrize(
    "extra", [{"handlers/base.py": "x = 1"}, {"handlers/new.py": ""}, {"given.py": f"{CODE}\n"}]
)
def test_code_of_another_version_is_refused_by_name(
    model: Model, tmp_path: Path, extra: dict[str, str]
) -> None:
    other = echo(tmp_path, "other", extra=extra)
    before = dict(code._code)
    with pytest.raises(HostError, match=rf"^other.mar: its code is .*{next(iter(extra))} differ"):
        Model(other)
    assert code._code == before


PROGRAM = """
import os, sys
from pathlib import Path
from deploy.hosting.code import HostError
from deploy.hosting.model import Model, Request
assert not any(name.partition(".")[0] == "handlers" for name in sys.modules), "imported too early"
first = Model(Path(sys.argv[1]), threads=3)
home = Path(sys.modules["handlers"].__file__)
assert home.parents[1] != Path.cwd() and sys.modules["handlers"].MARK == "of the archive"
assert first._entry.handler._pool._max_workers == 3 and "OMP_NUM_THREADS" not in os.environ
second = Model(Path(sys.argv[2]))
first.close()
import handlers.windows  # late, after the archive that brought it is closed
assert second.answer([Request(b"one")])[0].status == 200
try:
    Model(Path(sys.argv[3]))
except HostError as e:
    print(e)
"""


def test_the_archives_own_handlers_are_imported_and_shared(tmp_path: Path) -> None:
    text = (ROOT / "handlers" / "__init__.py").read_text(encoding="utf-8")
    marked = {"handlers/__init__.py": f"{text}\nMARK = 'of the archive'\n"}
    paths = [
        echo(tmp_path, "first", extra=marked),
        echo(tmp_path, "second", extra=marked),
        echo(tmp_path, "third"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PATH": "/usr/bin", "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "third.mar: its code is of another version than that of first.mar"
    )
    left = [p.name for p in tmp_path.iterdir() if p.suffix != ".mar"]
    assert [n for n in left if n.startswith("kit-code")] == []
