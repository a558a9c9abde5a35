"""What traces cost: processor time of a request with and without them, in turns.

``python -m benchmarks.tracing ARCHIVE INPUT``, in an environment that has requirements-tracing.txt
too. A process for each turn answers the input with the archive's own handler, one request at a
time; the spans go to a receiver in another process. The whole process is counted: the thread that
sends the spans, too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from deploy.hosting.model import Model, Request  # noqa: E402
from handlers.tracing import VARIABLE  # noqa: E402
from tests.support import otlp_receiver  # noqa: E402
from tests.support.servers import free_ports  # noqa: E402

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{}"


def turn(archive: Path, body: bytes, requests: int, sampled: bool) -> float:
    """Microseconds of processor time a request."""
    asked = [Request(body, {"traceparent": TRACEPARENT.format("01" if sampled else "00")})]
    with closing(Model(archive, threads=1)) as model:
        for _ in range(requests // 10):
            model.answer(asked)
        begin = time.process_time()
        for _ in range(requests):
            (answer,) = model.answer(asked)
            assert answer.status == 200, answer.body
        return (time.process_time() - begin) / requests * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("input", type=Path)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turn", choices=("off", "not sampled", "sampled"), help="one turn alone")
    given = parser.parse_args()
    if given.turn:
        body = given.input.read_bytes()
        print(turn(given.archive, body, given.requests, given.turn == "sampled"))
        return
    port, _ = free_ports()
    spans = Path(tempfile.mkdtemp()) / "spans.jsonl"
    found: dict[str, list[float]] = {"off": [], "not sampled": [], "sampled": []}
    receiver = [sys.executable, otlp_receiver.__file__, str(port), str(spans)]
    with subprocess.Popen(receiver) as process:
        time.sleep(1)
        for _ in range(given.rounds):
            for name, times in found.items():
                endpoint = "" if name == "off" else f"http://127.0.0.1:{port}"
                done = subprocess.run(
                    [sys.executable, __file__, *sys.argv[1:], "--turn", name],
                    env={**os.environ, VARIABLE: endpoint},
                    capture_output=True,
                    text=True,
                    check=True,
                )
                times.append(float(done.stdout))
        process.terminate()
    came = sum(1 for _ in spans.open())
    print(f"{came} spans came; microseconds of processor time a request, each turn and the median:")
    for name, times in found.items():
        more = statistics.median(t - off for t, off in zip(times, found["off"], strict=True))
        print(f"{name}: {json.dumps([round(t) for t in times])} {statistics.median(times):.0f}")
        print(f"  beyond off, median of the rounds: {more:.0f}")


if __name__ == "__main__":
    main()
