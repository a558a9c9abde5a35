"""A Ray cluster under load while parts of it are replaced, killed and added.

    python benchmarks/ray.py [--requests 10000] [--out benchmarks/results]

In a network of its own, which takes a root user. A model that sleeps stands for one that computes
on a machine of its own, as all nodes share this machine's cores: each node may run one replica. An
update under load from eight clients that send nothing twice; then two nodes under an open loop,
with the kit's client sending a lost request again and without; then one node against two. Writes
``ray.md``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import psutil  # noqa: E402

from qpstest.machine import describe  # noqa: E402
from tests.support import rays  # noqa: E402
from tests.support.hosted import echo  # noqa: E402
from tests.support.rays_load import Seen, closed, errors, opened, switched_once  # noqa: E402

HEAD, PORT = "127.0.0.1:21700", "21010"
URL = f"http://127.0.0.1:{PORT}/predictions/echo"
CLIENTS = 8
RATE, RETRIES, SECONDS = 15, 10, 20
SLEEP_MS = 200


def main() -> None:
    """Measures in turns and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000, help="of the update under load")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    with rays.network(), tempfile.TemporaryDirectory(prefix="rb-") as name:
        folder = Path(name)
        (folder / "sample").write_bytes(b"sample")
        updates = updated(folder, given.requests)
        events = [row for retries in (0, RETRIES) for row in nodes(folder, retries)]
        rates = throughput(folder)
    machine = describe()
    made_on = f"{machine['cpu']}, {machine['cores']} cores, one run"
    text = f"""# A Ray cluster under load

`python benchmarks/ray.py --requests {given.requests}`, {made_on}. All nodes share these cores.

A new version while {CLIENTS} clients ask all the time, none of them twice:

| requests | failed | before the update | switched once | p50 | p99 |
|---|---|---|---|---|---|
{updates}

Two nodes, {RATE} requests a second whatever is unanswered, a model that takes 20 ms:

| | client sends again | requests | failed | longest |
|---|---|---|---|---|
{"".join(events)}
A model that takes {SLEEP_MS} ms, one replica a node, {CLIENTS} clients:

| nodes | answers/s |
|---|---|
{rates}"""
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "ray.md").write_text(text, encoding="utf-8")
    print(text)


@contextmanager
def cluster(
    folder: Path, sleep_ms: float, count: int, cpus: int = 2
) -> Iterator[Callable[[str], psutil.Process]]:
    """A cluster that serves the model, with room for as many replicas as each node has CPUs; what
    is yielded begins a further node, or gives the second."""
    store = folder / f"store-{sleep_ms}"
    echo(store, "echo", sleep_ms=sleep_ms)
    with ExitStack() as stack:

        def begin(address: str) -> psutil.Process:
            head = HEAD if address != "127.0.0.1" else ""
            made = stack.enter_context(rays.node(folder, address, head, cpus))
            return psutil.Process(made.pid)

        started = [begin(f"127.0.0.{n + 1}") for n in range(count)]
        flags = ("--model-store", store, "--port", PORT, "--replicas", count, "--queue", "1000")
        done = rays.run("--cluster", HEAD, *map(str, flags))
        assert done.returncode == 0, done.stdout + done.stderr
        yield lambda address: started[1] if address == "second" else begin(address)


def updated(folder: Path, requests: int) -> str:
    """The row of an update in the middle of so many requests."""
    second = echo(folder / "second", "echo", version="2.0", sleep_ms=1)
    with cluster(folder, 1, 1) as _:
        with closed(URL, CLIENTS) as seen:
            wait(lambda: len(seen) > requests // 3)
            update(second, folder, "1")
            before = sum(s.version == "1.0" for s in seen)
            wait(lambda: len(seen) > requests)
        once = "yes" if switched_once(seen, "1.0", "2.0") else "no"
    took = sorted(s.answered - s.due for s in seen)
    p50, p99 = (f"{took[int(len(took) * q)] * 1e3:.0f} ms" for q in (0.5, 0.99))
    return f"| {len(seen)} | {len(errors(seen))} | {before} | {once} | {p50} | {p99} |"


def update(archive: Path, folder: Path, replicas: str) -> None:
    flags = ("--sample", folder / "sample", "--replicas", replicas, "--queue", "1000")
    done = rays.run("--cluster", HEAD, "--update", archive, *flags)
    assert done.returncode == 0, done.stdout + done.stderr


def nodes(folder: Path, retries: int) -> Iterator[str]:
    """Rows of what becomes of requests while something happens to one of two nodes."""
    third = echo(folder / "third", "echo", version="3.0", sleep_ms=20)
    with cluster(folder, 20, 2) as begin:

        def kill_replica() -> None:
            found = [p for p in psutil.process_iter() if ":echo" in p.name()]
            found[0].kill()

        def kill_raylet() -> None:
            tree = begin("second").children(recursive=True)
            next(p for p in tree if p.name() == "raylet").kill()

        events: dict[str, Callable[[], object]] = {
            "nothing": lambda: None,
            "a replica is killed": kill_replica,
            "a new version": lambda: update(third, folder, "2"),
            "a node is lost (its raylet is killed)": kill_raylet,
            "a node is added": lambda: begin("127.0.0.3"),
        }
        for name, event in events.items():
            with opened(URL, RATE, retries) as seen:
                time.sleep(3)
                event()
                time.sleep(SECONDS - 3)
            told = f"up to {retries} times" if retries else "never"
            longest = max(s.answered - s.due for s in seen)
            yield f"| {name} | {told} | {len(seen)} | {len(errors(seen))} | {longest:.1f} s |\n"


def throughput(folder: Path) -> str:
    """Rows of one node and of two."""
    rows, rates = "", []
    for count in (1, 2):
        with cluster(folder, SLEEP_MS, count, 1), closed(URL, CLIENTS) as seen:
            time.sleep(5)
            begin, first = len(seen), time.monotonic()
            time.sleep(SECONDS)
            rates.append(good(seen[begin:]) / (time.monotonic() - first))
        rows += f"| {count} | {rates[-1]:.2f} |\n"
    return f"{rows}\n{rates[1] / rates[0]:.2f} times as many.\n"


def good(seen: list[Seen]) -> int:
    return sum(not s.error for s in seen)


def wait(until: Callable[[], bool]) -> None:
    while not until():
        time.sleep(0.05)


if __name__ == "__main__":
    main()
