"""What bad clients cost the others, and what the guard before TorchServe costs everybody.

    python benchmarks/stall.py [--rounds 3] [--seconds 20] [--out benchmarks/results]

One client asks the shipped detector for a picture at a time, alone and while others misbehave, in
turns: 200 that send a byte a second, 3,000 uploads that stop in the middle (each ended one is begun
again), and once a second a form of two million fields and a .npz of a megabyte that unpacks to a
gigabyte, to a model of raw tensors. The same with TorchServe's own port, without the guard. Then a
model that computes nothing answers bodies of 170 KB through the guard and without it, in turns.
Writes ``stall.json`` and ``stall.md``.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from deploy.torchserve import config, state  # noqa: E402
from deploy.torchserve import server as servers  # noqa: E402
from deploy.torchserve.archives import survey  # noqa: E402
from deploy.torchserve.server import Server  # noqa: E402
from deploy.torchserve.settings import make  # noqa: E402
from qpstest.machine import describe  # noqa: E402

PORT, BARE_PORT = 21480, 21580
PICTURES = ROOT / "examples" / "pictures"
SLOW, HALVES = 200, 3000
BODY = 170_000
CONCURRENCY = (1, 4, 16)


def main() -> None:
    """Packs, serves with and without the guard, measures in turns, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns (median kept)")
    parser.add_argument("--seconds", type=float, default=20, help="each turn's, with bad clients")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kb-") as tmp:
        store = Path(tmp) / "store"
        pack(store, Path(tmp))
        found: dict[str, Any] = {
            "command": " ".join(["python", "benchmarks/stall.py", *sys.argv[1:]]),
            "machine": describe(),
            "guard": stalled(store, Path(tmp) / "a", True, given.rounds, given.seconds),
            "without": stalled(store, Path(tmp) / "b", False, 1, given.seconds),
            "cost": cost(store, Path(tmp), given.rounds),
        }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "stall.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (given.out / "stall.md").write_text(table(found), encoding="utf-8")
    print(table(found))


class Tiny(nn.Module):
    """``[N, 4096]`` to ``[N, 1]``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1, keepdim=True)


def pack(store: Path, folder: Path) -> None:
    """The shipped detector, and a model of raw tensors."""
    torch.jit.save(torch.jit.trace(Tiny().eval(), torch.zeros(1, 4096)), str(folder / "tiny.pt"))
    shared = [sys.executable, "repack/model_repack.py", "--model-store", str(store)]
    shared += ["--precision", "f32"]
    detector = ["--backend", "onnxruntime", "--name", "fd1", "--imgsz", "320"]
    tiny = ["--backend", "torchscript", "--weights", str(folder / "tiny.pt"), "--name", "tiny"]
    tiny += ["--input-shape", "batchx4096"]
    for flags in ([*detector, "--samples", str(PICTURES)], tiny):
        subprocess.run([*shared, *flags], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def serving(store: Path, run_dir: Path, guarded: bool, name: str = "fd1") -> Iterator[Server]:
    """The store behind the guard, or TorchServe alone on the public port."""
    port = PORT if guarded else BARE_PORT
    texts = {"name": name, "model_store": str(store), "run_dir": str(run_dir), "port": str(port)}
    settings = make({**texts, "grpc_port": str(port + 3)})
    state.prepare(run_dir)
    known, own = config.properties, config.guards
    if not guarded:
        config.properties = lambda *a: {
            **known(*a), "inference_address": f"http://127.0.0.1:{port}"
        }  # fmt: skip
        # The guard has a port of its own then, where nobody asks it.
        config.guards = lambda *a: [{**g, "port": port + 9, "shared": True} for g in own(*a)]
    try:
        server = servers.start(settings, survey(store)[0])
    finally:
        config.properties, config.guards = known, own
    try:
        for archive in survey(store)[0]:
            server.wait_ready(archive.name)
        yield server
    finally:
        servers.stop(server, drain_s=0)


def question(model: str, body: bytes, kind: str = "application/octet-stream") -> bytes:
    head = f"POST /predictions/{model} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Caller:
    """One kept-alive connection."""

    def __init__(self, port: int):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> int:
        """The answer's status."""
        self._socket.sendall(request)
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        head = data[:end].lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(data) < end + 4 + length:
            data += self._more()
        return int(data[9:12])

    def _more(self) -> bytes:
        data = self._socket.recv(1 << 16)
        if not data:
            raise ConnectionResetError("closed")
        return data

    def close(self) -> None:
        self._socket.close()


def timed(port: int, request: bytes, seconds: float) -> dict[str, float]:
    """One client, one request at a time; milliseconds."""
    caller, found, failed = Caller(port), [], 0
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end:
        try:
            good = caller.ask(request) == 200
        except OSError:
            good, caller = False, Caller(port)
        found.append((time.perf_counter() - begin) * 1000)
        failed += not good
    caller.close()
    return {**quantiles(found), "requests": len(found), "failed": failed}


def quantiles(values: list[float]) -> dict[str, float]:
    found = sorted(values)
    at = {name: found[min(len(found) - 1, int(len(found) * q))] for name, q in QUANTILES.items()}
    return {**at, "most": found[-1]}


QUANTILES = {"p50": 0.5, "p95": 0.95}


def stalled(
    store: Path, run_dir: Path, guarded: bool, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """A client's latencies alone and among bad clients, by round."""
    good = question("fd1", sorted(PICTURES.glob("*.jpg"))[0].read_bytes(), "image/jpeg")
    found = []
    with serving(store, run_dir, guarded) as server:
        port = server.settings.port
        timed(port, good, 3)
        for _ in range(rounds):
            alone = timed(port, good, seconds)
            stop: Event = multiprocessing.Event()
            told: Any = multiprocessing.Queue()
            bad = multiprocessing.Process(target=misbehave, args=(port, stop, told), daemon=True)
            bad.start()
            time.sleep(6)  # until all 3,000 are there
            among = timed(port, good, seconds)
            stop.set()
            found.append({"alone": alone, "among": among, "bad": told.get()})
            bad.join()
            time.sleep(3)
    return found


class Crowd:
    """Connections that have sent the beginning of a request and are opened again when ended."""

    def __init__(self, port: int, count: int, start: bytes):
        self._port, self._count, self._start = port, count, start
        self.selector = selectors.DefaultSelector()
        self.opened = self.ended = 0

    def fill(self, most: int) -> None:
        """Opens as many as are missing, at most so many at once."""
        missing = self._count - len(self.selector.get_map())
        for _ in range(min(missing, most)):
            client = socket.create_connection(("127.0.0.1", self._port), timeout=10)
            client.sendall(self._start)
            client.setblocking(False)
            self.selector.register(client, selectors.EVENT_READ)
            self.opened += 1

    def drop_ended(self) -> None:
        for key, _ in self.selector.select(0):
            self._drop(key.fileobj)

    def send(self, byte: bytes) -> None:
        """One byte from each."""
        for key in list(self.selector.get_map().values()):
            try:
                key.fileobj.send(byte)  # type: ignore[union-attr]
            except OSError:
                self._drop(key.fileobj)

    def _drop(self, client: Any) -> None:
        self.selector.unregister(client)
        client.close()
        self.ended += 1


def bomb() -> bytes:
    """A .npz of about a megabyte whose array has a gigabyte."""
    out = io.BytesIO()
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (65536, 4096), }"
    head = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + head.ljust(117) + b"\n"
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z,
        z.open("x.npy", "w", force_zip64=True) as f,
    ):
        f.write(head)
        for _ in range(1024):
            f.write(bytes(1 << 20))
    return out.getvalue()


def npy() -> bytes:
    """An array of about ``BODY`` bytes."""
    out = io.BytesIO()
    np.save(out, np.zeros((BODY // 16384, 4096), np.float32))
    return out.getvalue()


def misbehave(port: int, stop: Event, told: Any, slow_: int = SLOW, halves_: int = HALVES) -> None:
    """All bad clients, in a process of their own."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    half = question("fd1", bytes(1 << 20))[:5000]
    slow, halves = Crowd(port, slow_, b"P"), Crowd(port, halves_, half)
    form = question("fd1", b"a&" * 2_000_000, "application/x-www-form-urlencoded")
    bombs = {"form": form, "npz": question("tiny", bomb())}
    answers: dict[str, list[str]] = {name: [] for name in bombs}

    def throw(name: str) -> None:
        while not stop.wait(1):
            begin = time.perf_counter()
            status: object = "none"
            with suppress(OSError):
                caller = Caller(port)
                status = caller.ask(bombs[name])
                caller.close()
            answers[name].append(f"{status} in {time.perf_counter() - begin:.1f} s")

    throwers = [threading.Thread(target=throw, args=(name,)) for name in bombs]
    for thrower in throwers:
        thrower.start()
    second = time.monotonic()
    while not stop.wait(0.05):
        for crowd in (slow, halves):
            with suppress(OSError):
                crowd.drop_ended()
                crowd.fill(50)
        if time.monotonic() - second > 1:
            slow.send(b"O")
            second += 1
    told.put(
        {
            "open": {"slow": len(slow.selector.get_map()), "half": len(halves.selector.get_map())},
            "ended": {"slow": slow.ended, "half": halves.ended},
            "bombs": {name: sorted(set(found))[-5:] for name, found in answers.items()},
            "thrown": {name: len(found) for name, found in answers.items()},
        }
    )
    for thrower in throwers:
        thrower.join()


def cost(store: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Rates and latencies of a model that computes nothing, through the guard and without."""
    request = question("tiny", npy())
    found: dict[str, Any] = {str(c): {"guard": [], "without": []} for c in CONCURRENCY}
    with (
        serving(store, folder / "c", True, "tiny") as guard,
        serving(store, folder / "d", False, "tiny") as bare,
    ):
        for _ in range(rounds):
            for count in CONCURRENCY:
                for name, server in (("guard", guard), ("without", bare)):
                    processes = server.state.guards()
                    before = sum(sum(p.cpu_times()[:2]) for p in processes)
                    rate, p50 = flood(server.settings.port, request, count, 5)
                    used = sum(sum(p.cpu_times()[:2]) for p in processes) - before
                    turn = {"rate": rate, "p50": p50, "guard_us": used / (rate * 5) * 1e6}
                    found[str(count)][name].append(turn)
    return found


def flood(port: int, request: bytes, count: int, seconds: float) -> tuple[float, float]:
    """(requests a second, median ms) of so many clients in a process of their own."""
    told: Any = multiprocessing.Queue()
    process = multiprocessing.Process(target=callers, args=(port, request, count, seconds, told))
    process.start()
    found = told.get()
    process.join()
    return len(found) / seconds, median(found)


def callers(port: int, request: bytes, count: int, seconds: float, told: Any) -> None:
    found: list[float] = []

    def run() -> None:
        caller, end = Caller(port), time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            caller.ask(request)
            found.append((time.perf_counter() - begin) * 1000)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told.put(found)


def table(found: dict[str, Any]) -> str:
    """The page."""
    here = found["machine"]
    lines = [
        "# Bad clients, and the guard",
        "",
        f"`{found['command']}`, {here['cpu']}, {here['cores']} cores.",
        "",
        "One client of the shipped detector, one picture at a time, alone and among 200 clients"
        " that send a byte a second, 3,000 uploads that stop in the middle, a form of two million"
        " fields and a .npz bomb each second:",
        "",
        "| | p50 alone | among | p95 alone | among | ratio of p95 | longest | failed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in ("guard", "without"):
        for i, turn in enumerate(found[name], 1):
            a, b = turn["alone"], turn["among"]
            lines.append(
                f"| {'guard, turn ' + str(i) if name == 'guard' else 'TorchServe alone'}"
                f" | {a['p50']:.1f} ms | {b['p50']:.1f} ms | {a['p95']:.1f} ms | {b['p95']:.1f} ms"
                f" | {b['p95'] / a['p95']:.2f} | {b['most']:.0f} ms"
                f" | {b['failed']} of {b['requests']} |"
            )
    lines += [
        "",
        f"A model that computes nothing, bodies of {BODY:,} bytes, in turns (medians):",
        "",
        "| clients | guard | without | p50 guard | without | guard's processor time a request |",
        "|---|---|---|---|---|---|",
    ]
    for count, sides in found["cost"].items():
        g, w = (middle(sides[name]) for name in ("guard", "without"))
        lines.append(
            f"| {count} | {g['rate']:.0f}/s | {w['rate']:.0f}/s | {g['p50']:.2f} ms"
            f" | {w['p50']:.2f} ms | {g['guard_us']:.0f} us |"
        )
    return "\n".join(lines) + "\n"


def middle(turns: list[dict[str, float]]) -> dict[str, float]:
    return {key: median(turn[key] for turn in turns) for key in turns[0]}


if __name__ == "__main__":
    main()
