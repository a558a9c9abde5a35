from __future__ import annotations

from pathlib import Path

import pytest

from handlers.errors import KitError
from qpstest import inputs, machine
from qpstest.options import parse


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
    assert inputs.read(tmp_path) == [("a.png", b"a.png"), ("b.JPG", b"b.JPG")]
    (tmp_path / "b.JPG").unlink()
    (tmp_path / "a.png").unlink()
    assert inputs.read(tmp_path) == [("labels.json", b"labels.json")]
    (tmp_path / "labels.json").unlink()
    with pytest.raises(KitError, match="holds no files"):
        inputs.read(tmp_path)
    with pytest.raises(KitError, match="no such file or folder"):
        inputs.read(tmp_path / "none")


def test_machine_and_versions() -> None:
    found = machine.describe()
    assert found["cores"] >= 1
    assert found["cpu"]
    assert machine.versions()["torchserve"] == "0.12.0"
