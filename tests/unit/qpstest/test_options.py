from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from handlers.errors import KitError
from qpstest import inputs, machine, tasks
from qpstest.flags import parser
from qpstest.options import parse
from repack.tasks.load_test import LoadTest


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOST", "PORT", "GRPC_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RUN_DIR", str(tmp_path / "none"))


def test_defaults() -> None:
    o = parse([])
    assert o.modes == (3,)
    assert o.concurrency == (1, 4, 16)
    assert o.name == "fd1"
    assert o.input.parts[-2:] == ("examples", "pictures")
    assert o.server.url == "http://127.0.0.1:8080"
    assert o.server.management_url == "http://127.0.0.1:8081"
    assert o.server.metrics_url == "http://127.0.0.1:8082"
    assert o.server.grpc_address == "127.0.0.1:7070"


def test_environment_and_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9000")
    monkeypatch.setenv("HOST", "0.0.0.0")
    assert parse([]).server.metrics_url == "http://127.0.0.1:9002"
    assert parse(["--port", "9100"]).server.url == "http://127.0.0.1:9100"
    server = parse(["--url", "https://[::1]:8443/", "--grpc-port", "1"]).server
    assert server.management_url == "https://[::1]:8444"
    assert server.grpc_address == "[::1]:1"


@pytest.mark.parametrize(
    ("given", "modes"), [("all", (1, 2, 3)), ("2", (2,)), ("3,1", (1, 3)), ("2,2", (2,))]
)
def test_modes(given: str, modes: tuple[int, ...]) -> None:
    assert parse(["--mode", given]).modes == modes


@pytest.mark.parametrize(
    "arguments",
    [
        ["--mode", "4"],
        ["--mode", ""],
        ["--mode", "1,"],
        ["--concurrency", "1,x"],
        ["--concurrency", "0"],
        ["--concurrency", "-1"],
        ["--concurrency", ""],
        ["--concurrency", "1.5"],
        ["--concurrency", "99999"],
        ["--requests", "-1"],
        ["--timeout", "0"],
        ["--timeout", "nan"],
        ["--duration", "inf"],
        ["--warmup", "-3"],
        ["--processes", "0"],
        ["--clients", "0"],
        ["--batch", "0"],
        ["--rounds", "0"],
        ["--url", "ftp://somewhere"],
        ["--rate", "0"],
        ["--rate", "-3"],
        ["--rate", "many"],
        ["--rate", "10,"],
        ["--rate", "20:10:1"],
        ["--rate", "1:2:3:4"],
        ["--rate", "1:1000000:0.1"],
        ["--arrivals", "poisson"],
        ["--rate", "1,2", "--arrivals", "times.txt"],
        ["--latency-limit", "p98=50"],
        ["--latency-limit", "p99"],
        ["--latency-limit", "p99=0"],
        ["--latency-limit", "p99=nan"],
        ["--connections", "0"],
        ["--memory", "0"],
        ["--server", "url"],
        ["--server", "ray", "--protocol", "grpc"],
        ["--port", "70000"],
    ],
)
def test_wrong_values_are_one_line(arguments: list[str]) -> None:
    with pytest.raises(KitError) as caught:
        parse(arguments)
    assert "expected" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flag", [["--token", "sesame"], ["--management-token=sesame"]])
def test_tokens_are_not_reported(flag: list[str]) -> None:
    shown = parse(["--mode", "3", *flag, "--name", "x"]).command
    assert "sesame" not in shown
    assert shown.endswith("HIDDEN --name x")


def test_a_folder_gives_its_pictures_in_order(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "labels.json", ".hidden.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "c.jpg").mkdir()
    pictures = tasks.choose(None, tmp_path)
    assert inputs.read(tmp_path, pictures) == [("a.png", b"a.png"), ("b.JPG", b"b.JPG")]
    (tmp_path / "b.JPG").unlink()
    (tmp_path / "a.png").unlink()
    assert inputs.read(tmp_path, pictures) == [("labels.json", b"labels.json")]
    (tmp_path / "labels.json").unlink()
    with pytest.raises(KitError, match="holds no files"):
        inputs.read(tmp_path, pictures)
    with pytest.raises(KitError, match="no such file or folder"):
        inputs.read(tmp_path / "none", pictures)


def test_machine_and_versions() -> None:
    found = machine.describe()
    assert found["cores"] >= 1
    assert found["cpu"]
    assert machine.versions()["torchserve"] == "0.12.0"


def test_volumes_have_defaults_of_their_own(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.NRRD", "notes.txt", ".hidden.nii"):
        (tmp_path / name).write_bytes(b"x")
    o = parse(["--input", str(tmp_path)])
    assert o.task is tasks.hooks("segmentation")
    assert (o.concurrency, o.requests, o.warmup) == ((1, 4), 8, 1)
    assert (o.accept, o.timeout) == ("application/gzip", 600.0)
    assert [name for name, _ in inputs.read(tmp_path, o.task)] == ["a.nii.gz", "b.NRRD"]
    o = parse(["--input", str(tmp_path), "--requests", "3", "--accept", "application/json"])
    assert (o.requests, o.accept) == (3, "application/json")
    assert parse([]).task is tasks.hooks("detection")
    assert parse([]).requests == 200


def test_batches_are_a_sorted_list() -> None:
    assert parse(["--batch", "4,1"]).batches == (1, 4)
    assert parse([]).batches == ()


def test_rates() -> None:
    o = parse(["--rate", "10:40:10", "--arrivals", "poisson", "--seed", "7"])
    assert o.rates == (10.0, 20.0, 30.0, 40.0)
    assert o.rate_range == (10.0, 40.0)
    assert [(load.name, load.concurrency) for load in o.loads] == [
        (f"rate {rate}/s", 0) for rate in (10, 20, 30, 40)
    ]
    arrivals = o.at(20.0)
    assert (arrivals.kind, arrivals.seconds, arrivals.count, arrivals.seed) == ("poisson", 10, 0, 7)
    o = parse(["--rate", "0.5", "--requests", "5"])
    assert (o.rates, o.rate_range, o.at(0.5).count, o.at(0.5).seconds) == ((0.5,), None, 5, 0)
    assert parse([]).loads[0].name == "concurrency 1"


def test_a_latency_limit() -> None:
    limit = parse(["--latency-limit", "p99=50"]).limit
    assert limit is not None
    assert (limit.percentile, limit.ms, limit.share, limit.name) == ("p99", 50.0, 0.99, "p99=50")
    for text, share in (("max=2.5", 1.0), ("mean=3", 0.0), ("p50=1", 0.5)):
        found = parse(["--latency-limit", text]).limit
        assert found is not None
        assert found.share == share


@pytest.mark.parametrize(
    ("arguments", "url", "path", "grpc"),
    [
        (["--server", "triton"], "http://127.0.0.1:8000", "", "127.0.0.1:8001"),
        (["--server", "kserve", "--port", "9"], "http://127.0.0.1:9", "", "127.0.0.1:8081"),
        (["--server", "ray", "--url", "h:1/fd1?x=1"], "http://h:1", "/fd1?x=1", "h:9000"),
        (["--server", "url", "--url", "https://h/a/b"], "https://h:443", "/a/b", "h:0"),
    ],
)
def test_other_servers_have_ports_of_their_own(
    arguments: list[str], url: str, path: str, grpc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "9999")  # run.sh's, which is no other server's
    server = parse(arguments).server
    assert (server.url, server.path, server.grpc_address) == (url, path, grpc)


def test_the_named_task_wins_over_the_names_of_the_inputs(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert tasks.choose("classification", tmp_path) is tasks.hooks("classification")
    assert tasks.choose("tensors", tmp_path) is tasks.hooks("detection")
    assert tasks.choose(None, tmp_path / "a.jpg") is tasks.hooks("detection")
    (tmp_path / "a.jpg").rename(tmp_path / "a.bin")
    assert type(tasks.choose(None, tmp_path)) is LoadTest
    assert tasks.of_archive(tmp_path / "a.bin") is None
    assert type(tasks.hooks("tensors")) is type(tasks.hooks("no such task")) is LoadTest
    assert tasks.described({"model": {"task": "detection"}}) == "detection"
    assert tasks.described({}) is None


def test_broken_inputs_are_named_and_left_out() -> None:
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    named = [
        ("good.png", picture.getvalue()),
        ("bad.png", b"x"),
        ("cut.png", picture.getvalue()[:40]),
    ]
    good, lines = inputs.whole(named, tasks.hooks("detection"))
    assert [name for name, _ in good] == ["good.png"]
    assert [line.split(":")[0] for line in lines] == ["bad.png", "cut.png"]
    kept, lines = inputs.whole(named[1:], tasks.hooks("detection"))
    assert kept == named[1:]  # nothing else is there: what the server says of it is counted
    assert len(lines) == 2
    assert inputs.whole(named, LoadTest()) == (named, [])


def test_every_flag_has_help() -> None:
    text = parser().format_help()
    assert "None" not in text
    assert str(Path.cwd()) not in text
    assert all(a.help for a in parser()._actions)
