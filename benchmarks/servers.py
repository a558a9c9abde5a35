"""What one request costs on each server: processor time, memory and time, beside each other.

    python benchmarks/servers.py [--rounds 3] [--requests 300] [--out benchmarks/results]

The shipped detector for ONNX Runtime in f32, on each server of the kit with one process of the
model and one thread; and the network out of that archive in LitServe 0.2.19 and BentoML 1.4.40, as
their documentation writes a service (``benchmarks/peers``), with ONNX Runtime's own number of
threads and with one. One client asks for one 1280x720 JPEG at a time. Servers run one after the
other, in rounds. Counted is every process that a server has: its processor time between the first
request and the last answer, and its memory after it (PSS, and files' pages once). In a network of
its own, for Ray, which takes a root user; a server whose packages are not to be had is named.
Writes ``servers.json`` and ``servers.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import psutil  # noqa: E402
import pytest  # noqa: E402

from benchmarks import bench, work  # noqa: E402
from qpstest.http_api import HttpSession, HttpTarget, Plain, Wire  # noqa: E402
from qpstest.machine import describe, versions  # noqa: E402
from qpstest.v2 import V2Wire  # noqa: E402
from qpstest.v2_tensor import Tensor  # noqa: E402
from repack import archive  # noqa: E402
from tests.support import environments, made, rays, triton  # noqa: E402

NAME, PORT = "fd1", 18100
URL = f"http://127.0.0.1:{PORT}"
PEERS = (
    "litserve==0.2.19", "bentoml==1.4.40", "onnxruntime==1.31.1", "numpy==2.4.6",
    "opencv-python-headless==5.0.0.93", "pillow",
)  # fmt: skip
PICTURES, WARM, IDLE_S = 8, 30, 5
START_S = 120
BOUNDARY = "kit-benchmark"

Asked = Mapping[str, HttpTarget]
"""What asks a running server, by the way of asking."""


@dataclass(frozen=True)
class Form:
    """A picture as a field of a form, as a browser sends it."""

    path: str
    field: str
    typed: ClassVar[bool] = True

    def encode(self, body: bytes) -> tuple[str, bytes]:
        head = f'form-data; name="{self.field}"; filename="a.jpg"\r\nContent-Type: image/jpeg'
        begin = f"--{BOUNDARY}\r\nContent-Disposition: {head}\r\n\r\n".encode()
        kind = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        return kind, begin + body + f"\r\n--{BOUNDARY}--\r\n".encode()

    def decode(self, head: bytes, body: bytes) -> bytes:
        return body


@dataclass(frozen=True)
class Given:
    """What every server gets.

    Attributes:
        store: with the archive.
        model: the network out of it.
        room: for a server's own files.
    """

    store: Path
    model: Path
    room: Path
    bodies: list[bytes]

    def target(self, wire: Wire, url: str = URL) -> HttpTarget:
        return HttpTarget(url, wire, self.bodies, timeout=60)


V2 = V2Wire(NAME, Tensor("BODY", "BYTES", (-1, 1)), binary=True)
PREDICTIONS = Plain(f"/predictions/{NAME}")


@contextmanager
def torchserve(given: Given) -> Iterator[Asked]:
    """TorchServe as run.sh serves; its guard speaks v2, in front of the same workers."""
    one = {"workers": "1", "threads": "1"}
    with bench.serving(given.store, given.room, NAME, PORT, one):
        yield {"predictions": given.target(PREDICTIONS), "v2 (KServe)": given.target(V2)}


@contextmanager
def ray(given: Given) -> Iterator[Asked]:
    """``python -m deploy.ray``, a cluster of its own with one replica."""
    with rays.serving(given.room, given.store, "--replicas", "1", port=PORT):
        yield {"predictions": given.target(PREDICTIONS)}


@contextmanager
def triton_server(given: Given) -> Iterator[Asked]:
    """Triton, whose Python backend runs the archive's handlers."""
    repository = given.room / "models"
    line = [sys.executable, "-m", "deploy.triton", str(given.store / f"{NAME}.mar")]
    flags = ["--repository", str(repository), "--instances", "1", "--threads", "1"]
    subprocess.run([*line, *flags], cwd=ROOT, check=True)
    with triton.serving(repository, triton.HANDLERS) as found:
        yield {"v2": given.target(V2, found.url)}


@contextmanager
def peer(given: Given, threads: int, ready: str, wire: Wire, *program: str) -> Iterator[Asked]:
    """Another program, which answers at ``ready`` once it serves."""
    python = environments.made("peers", PEERS) / "bin" / "python"
    own = {"MODEL": str(given.model), "THREADS": str(threads), "PORT": str(PORT)}
    own |= {"PYTHONPATH": str(ROOT), "BENTOML_HOME": str(given.room), "DO_NOT_TRACK": "1"}
    own |= {"BENTOML_DO_NOT_TRACK": "True"}
    log = given.room / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(python), *program], env={**os.environ, **own}, stdout=out, stderr=out
        )
    try:
        end = time.monotonic() + START_S
        while not answers(f"{URL}/{ready}"):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{program} does not serve:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield {f"{threads or 'its own number of'} threads": given.target(wire)}
    finally:
        rays.end(process)


def litserve(threads: int) -> Callable[[Given], AbstractContextManager[Asked]]:
    program = ("-m", "benchmarks.peers.litserve_api")
    return lambda given: peer(given, threads, "health", Form("/predict", "request"), *program)


def bentoml(threads: int) -> Callable[[Given], AbstractContextManager[Asked]]:
    program = ("-m", "bentoml", "serve", "benchmarks.peers.bentoml_service:Detector")
    more = (*program, "--working-dir", str(ROOT), "--host", "127.0.0.1", "--port", str(PORT))
    return lambda given: peer(given, threads, "readyz", Form("/detect", "image"), *more)


SERVERS: Mapping[str, tuple[Callable[[Given], AbstractContextManager[Asked]], ...]] = {
    "TorchServe": (torchserve,),
    "Ray Serve": (ray,),
    "Triton": (triton_server,),
    "LitServe": (litserve(0), litserve(1)),
    "BentoML": (bentoml(0), bentoml(1)),
}
PACKAGES: Mapping[str, Callable[[], object]] = {
    "TorchServe": lambda: None,
    "Ray Serve": rays.python,
    "Triton": lambda: (triton.installed(), environments.made("triton", triton.HANDLERS)),
    "LitServe": lambda: environments.made("peers", PEERS),
    "BentoML": lambda: environments.made("peers", PEERS),
}
"""What makes a server's environment, while there is a network."""


def main() -> None:
    """Makes the environments and the archive, measures in rounds, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of all servers (median kept)")
    parser.add_argument("--requests", type=int, default=300, help="counted, of each way to ask")
    parser.add_argument("--servers", default=",".join(SERVERS), help="which, by name")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    missing, there = [], []
    for name in given.servers.split(","):
        try:
            PACKAGES[name]()
            there.append(name)
        except pytest.skip.Exception as e:
            missing.append(f"{name}: {e}")
    rounds = []
    with tempfile.TemporaryDirectory(prefix="kb-") as tmp:
        folder = Path(tmp)
        model = packed(folder / "store", folder / "unpacked")
        pictures = work.pictures_of(folder / "pictures", PICTURES, seed=41, size=work.BYTES)
        bodies = [path.read_bytes() for path in sorted(pictures.iterdir())]
        with rays.network():
            for number in range(given.rounds):
                rounds.append(measured(there, given.requests, folder, number, model, bodies))
                print(json.dumps(rounds[-1]), flush=True)
    result = {
        "command": " ".join(["python", "benchmarks/servers.py", *sys.argv[1:]]),
        "machine": describe(),
        "versions": versions(),
        "peers": PEERS,
        "missing": missing,
        "rounds": rounds,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "servers.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (given.out / "servers.md").write_text(table(result), encoding="utf-8")
    print(table(result))


def packed(store: Path, unpacked: Path) -> Path:
    """Packs the shipped detector; gives the network out of the archive."""
    made.repacked(
        "--backend", "onnxruntime", "--precision", "f32", "--name", NAME, "--model-store", store,
        "--samples", made.PICTURES,
    )  # fmt: skip
    passport = archive.unpack(store / f"{NAME}.mar", unpacked)
    (file,) = (f for f in passport.artefacts["accelerated"].files if f.endswith(".onnx"))
    return unpacked / file


def measured(
    names: list[str], requests: int, folder: Path, number: int, model: Path, bodies: list[bytes]
) -> dict[str, dict[str, float]]:
    """One round: "server, way of asking" -> figures."""
    found = {}
    for name in names:
        for i, serve in enumerate(SERVERS[name]):
            room = folder / f"{name.split()[0]}{i}-{number}"
            room.mkdir()
            with serve(Given(folder / "store", model, room, bodies)) as asked:
                for way, target in asked.items():
                    found[f"{name}, {way}"] = figures(target, requests)
    return found


def figures(target: HttpTarget, requests: int) -> dict[str, float]:
    """Of one server, the only one that this process has started and not ended.

    ``cpu_ms`` a request, ``idle_ms`` a second without any, ``p50_ms``, ``p95_ms``, ``memory_mb``
    (10^6 bytes), ``processes``, ``boxes`` a picture.
    """
    session = HttpSession(target)
    boxes = 0

    def ask(number: int) -> float:
        nonlocal boxes
        begin = time.perf_counter()
        reply = session.call(number)
        took = time.perf_counter() - begin
        if reply.kind:
            raise SystemExit(f"{target.url}{target.wire.path}: {reply.kind}: {reply.message}")
        boxes += len(json.loads(reply.answer)["detections"]) if number < PICTURES else 0
        return took

    for n in range(WARM):
        ask(n)
    session.close()  # some servers would, meanwhile
    before, begin = spent(), time.perf_counter()
    time.sleep(IDLE_S)
    idle = since(before) / (time.perf_counter() - begin)
    ask(WARM)
    before = spent()
    took = sorted(ask(PICTURES + n) for n in range(requests))
    cpu = since(before) / requests
    session.close()
    return {
        "cpu_ms": 1e3 * cpu,
        "idle_ms": 1e3 * idle,
        "p50_ms": 1e3 * took[len(took) // 2],
        "p95_ms": 1e3 * took[int(0.95 * len(took))],
        "memory_mb": memory() / 1e6,
        "processes": len(processes()),
        "boxes": boxes / PICTURES,
    }


def processes() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if p.status() != "zombie"]


def memory() -> int:
    """Bytes of all processes: what is a process's own as the kernel shares it out (PSS), and each
    file's pages once, as this process and others have some of the same libraries."""
    own, files = 0, dict[str, int]()
    for process in processes():
        for found in process.memory_maps(grouped=True):
            if found.path.startswith("["):
                own += found.pss
            else:
                own += found.anonymous
                pages = found.rss - found.anonymous
                files[found.path] = max(files.get(found.path, 0), pages)
    return own + sum(files.values())


def spent() -> dict[int, float]:
    """Seconds of processor time of each process so far."""
    found = {}
    for process in processes():
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


def since(before: Mapping[int, float]) -> float:
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in spent().items())


def answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def table(result: Mapping[str, Any]) -> str:
    """The medians of the rounds as Markdown, with the least and the most of processor time."""
    machine, rounds = result["machine"], result["rounds"]
    packages = ", ".join(f"{k} {v}" for k, v in result["versions"].items() if v)
    lines = [
        "# What a request costs on each server",
        "",
        f"`{result['command']}`, {machine['cpu']}, {machine['cores']} cores, {packages}; "
        f"of LitServe and BentoML: {', '.join(result['peers'])}.",
        "",
        "The shipped detector (YOLOv5n, 640x640) in f32 on ONNX Runtime, a 1280x720 JPEG of 170 KB "
        "at a time. On the kit's servers one process of the model with one thread, which decodes "
        "a picture of twice the model's size at half of it. Medians of the rounds; in brackets the "
        "least and the most.",
        "",
        "| server, asked by | processor ms a request | p50 ms | p95 ms | memory MB "
        "| processes | idle: processor ms a second | boxes a picture |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in rounds[0]:
        each = {key: [r[name][key] for r in rounds] for key in rounds[0][name]}
        mid = {key: median(values) for key, values in each.items()}
        lines.append(
            f"| {name} | {mid['cpu_ms']:.1f} ({min(each['cpu_ms']):.1f} to "
            f"{max(each['cpu_ms']):.1f}) | {mid['p50_ms']:.1f} ({min(each['p50_ms']):.1f} to "
            f"{max(each['p50_ms']):.1f}) | {mid['p95_ms']:.1f} | {mid['memory_mb']:.0f} "
            f"| {mid['processes']:.0f} | {mid['idle_ms']:.1f} | {mid['boxes']:.2f} |"
        )
    lines += [*("" for _ in result["missing"][:1]), *(f"Not run: {m}" for m in result["missing"])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
