"""The images, built for real on a Debian base and run: what a user of ``docker run`` relies on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.archives import ECHO, write_archive
from tests.support.boxes import (
    ADDRESS,
    ROOT,
    UID,
    Box,
    Buildah,
    configuration,
    missing,
    pip_options,
    running,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PICTURE = ROOT / "examples" / "pictures" / "shapes01.jpg"
RUN_DIR = "/tmp/kit"  # noqa: S108
SLOW = ECHO.replace("return [", "import time; time.sleep(3); return [")


@dataclass(frozen=True)
class Image:
    """The built server image: its files, its configuration, and what its base's build said."""

    root: Path
    config: dict[str, Any]
    said: str


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """Both images, the base on a Debian that is made here; everything is removed at the end."""
    if why := missing():
        pytest.skip(f"no image can be built here: {why}")
    with tempfile.TemporaryDirectory(prefix="kit-images-", dir="/var/tmp") as name:
        buildah = Buildah(Path(name))
        try:
            buildah.debian("debian")
        except subprocess.CalledProcessError as e:
            pytest.skip(f"no Debian base can be made here: mmdebstrap ended with {e.returncode}")
        said = buildah.build("Dockerfile_base", "kit-base", "debian", *pip_options(Path(name)))
        buildah.build("Dockerfile_torchserve_tensorrt", "kit", "kit-base")
        config = configuration(buildah, "localhost/kit")
        container = buildah("from", "localhost/kit")
        yield Image(Path(buildah("mount", container)), config, said)
        buildah("umount", container)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An empty model store that belongs to the image's user, as a new volume does."""
    found = tmp_path / "models"
    found.mkdir()
    os.chown(found, UID, UID)
    return found


@pytest.fixture(scope="module")
def served(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """The image as it is, on an empty store: it repacks the shipped model and serves it."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "models").mkdir()
    os.chown(folder / "models", UID, UID)
    with running(image.root, image.config, folder / "models", folder / "log") as box:
        try:
            box.wait_healthy(600)
        except AssertionError as e:
            raise AssertionError(f"{e}: {(folder / 'log').read_text()[-3000:]}") from None
        yield box


def token(box: Box) -> str:
    """The token for predictions, read as the README says."""
    done = box.execute("cat", f"{RUN_DIR}/key_file.json")
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["inference"]["key"])


def predict(box: Box, *more: str, host: str = ADDRESS) -> tuple[int, bytes]:
    return box.ask(f"http://{host}:8080/predictions/fd1", "-T", str(PICTURE), *more)


def test_the_base_says_what_it_has_and_keeps_no_build_setting(image: Image) -> None:
    assert "| TensorRT: none, so the CPU runtimes only\ntorch2trt: no\n" in image.said
    venv = (image.root / "opt" / "venv" / "pyvenv.cfg").read_text()
    assert "include-system-site-packages = true" in venv, "the base's tensorrt would not be seen"
    assert not (image.root / "etc" / "pip.conf").exists()
    assert not (image.root / "run" / "kit-ca.pem").exists()
    assert not [entry for entry in image.config["Env"] if entry.startswith("PIP_")]


def test_the_image_holds_the_kit_and_nothing_else_of_the_checkout(image: Image) -> None:
    kit = image.root / "opt" / "torchserve-repack"
    names = {path.name for path in kit.iterdir()}
    assert {"run.sh", "deploy", "handlers", "repack", "examples"} <= names
    assert not names & {".git", ".venv", ".run", "tests", "benchmarks", "model_store"}
    owned = [p for p in kit.rglob("*") if p.stat().st_uid == UID]
    assert not owned, "the server's user may not change the kit"


def test_a_picture_is_answered_at_the_published_address(served: Box) -> None:
    status, body = predict(served, "-H", f"Authorization: Bearer {token(served)}")
    answer = json.loads(body)
    assert status == 200, answer
    assert answer["runtime"]["fallback"] is None
    labels = (PICTURE.parent / "labels" / "shapes01.txt").read_text().splitlines()
    expected = sorted(int(line.split()[0]) for line in labels)
    sure = [found for found in answer["detections"] if found["confidence"] > 0.5]
    assert sorted(found["class_id"] for found in sure) == expected


def test_without_a_token_nobody_is_answered(served: Box) -> None:
    status, body = predict(served)
    assert status in (400, 401), body
    assert b"detections" not in body


def test_management_does_not_leave_the_container(served: Box) -> None:
    for port in (8081, 8082, 7071):
        assert served.ask(f"http://{ADDRESS}:{port}/models")[0] == 0


def test_tini_is_process_1_and_no_process_is_root(served: Box) -> None:
    assert served.first.name() == "tini"
    names = {process.name() for process in served.processes()}
    assert "java" in names
    for process in served.processes():
        assert set(process.uids()) == set(process.gids()) == {UID}, process


def test_nothing_but_tmp_and_the_store_can_be_written(served: Box) -> None:
    done = served.execute("sh", "-c", "touch /opt/torchserve-repack/x /opt/venv/x; touch /models/x")
    assert done.stderr.count("Read-only file system") == 2, done.stderr
    assert served.execute("rm", "/models/x").returncode == 0


def test_status_by_run_sh(served: Box) -> None:
    done = served.execute("bash", "run.sh", "--status")
    assert done.returncode == 0, done.stderr
    assert "READY" in done.stdout


def test_a_checkpoint_is_repacked_into_the_store(served: Box) -> None:
    weights = "examples/shapes/yolov5n_shapes.pt"
    command = (
        f"python repack/model_repack.py --weights {weights} --name again --model-store /models"
    )
    done = served.execute(*command.split(), "--backend", "torchscript")
    assert done.returncode == 0, done.stdout + done.stderr
    assert served.execute("python", "-m", "repack.inspect", "/models/again.mar").returncode == 0


def test_health_follows_the_workers(served: Box) -> None:
    assert served.health().stdout == "healthy\n"
    served.execute("python", "-c", WORKERS.format(0))
    done = served.health()
    assert (done.returncode, done.stdout) == (1, "model fd1 is not READY\n")
    served.execute("python", "-c", WORKERS.format(1))
    served.wait_healthy(120)


WORKERS = """
import os
from deploy.torchserve import server, settings
server.running(settings.parse([], os.environ)[1]).client.set_workers("fd1", {})
"""


def test_sigterm_lets_requests_in_flight_finish(image: Image, store: Path, tmp_path: Path) -> None:
    write_archive(store, "fd1", SLOW)
    log = tmp_path / "log"
    # Also: a store that is mounted for reading only, and tokens off because that was said.
    (store / "fd1.mar").chmod(0o444)
    os.chown(store, 0, 0)
    variables = {"WITHOUT_TOKENS": "1", "WORKERS": "1"}
    with running(image.root, image.config, store, log, **variables) as box:
        box.wait_healthy(120)
        assert (
            f"{'open':<9}whoever reaches 0.0.0.0:8080 may ask, without a token" in log.read_text()
        )
        answers: list[tuple[int, bytes]] = []
        asking = threading.Thread(target=lambda: answers.append(predict(box)))
        asking.start()
        time.sleep(1)
        everyone = box.processes()
        box.first.send_signal(getattr(signal, image.config.get("StopSignal") or "SIGTERM"))
        assert box.process.wait(60) == 0
        asking.join(30)
    assert answers == [(200, b'{"bytes": %d}' % PICTURE.stat().st_size)]
    assert not [process for process in everyone if process.is_running()]
    assert log.read_text().rstrip().endswith("stopped")


def test_sigterm_while_starting_ends_it(image: Image, store: Path, tmp_path: Path) -> None:
    write_archive(
        store, "fd1", ECHO.replace("self.batch", "import time; time.sleep(60); self.batch")
    )
    log = tmp_path / "log"
    with running(image.root, image.config, store, log) as box:
        end = time.monotonic() + 60
        while "fd1 is loading" not in log.read_text() and time.monotonic() < end:
            time.sleep(0.2)
        done = box.health()
        assert (done.returncode, done.stdout) == (1, "model fd1 is not READY\n")
        box.first.send_signal(signal.SIGTERM)
        assert box.process.wait(30) == 143
    assert "nothing is left running" in log.read_text()


def test_a_store_that_cannot_be_written_is_one_line(image: Image, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    log = tmp_path / "log"
    with running(image.root, image.config, tmp_path / "models", log) as box:
        assert box.process.wait(300) == 1
    lines = log.read_text().splitlines()
    assert "Traceback" not in log.read_text()
    assert [line for line in lines if "error: " in line and "/models" in line], lines
