"""Archives packed where the CPU has bfloat16, behind a real server on processors with and without.

Log, answer and metric say what runs. Row 49: another CPU than the one that packed.
"""

from __future__ import annotations

import json
import re
import time

import numpy as np
import pytest

from qpstest.server_metrics import fallback_runtime, parse
from tests.support.bench import bench
from tests.support.isa import REASON, environment, has_bf16, packed_with_bf16

BODY = json.dumps({"inputs": np.ones((1, 3, 8, 8)).tolist()}).encode()
FOUND = {"f32": "f32", "bf16": "f32", "int8": "int8"}
"""What runs where the CPU has no bfloat16."""


@pytest.mark.timeout(600)
def test_a_served_precision_is_the_one_that_runs(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(isa).items():
        monkeypatch.setenv(name, value)
    archives = {precision: packed_with_bf16(precision) for precision in FOUND}
    with bench(archives, ("bf16", BODY)) as served:
        for precision in archives:
            served.server.wait_ready(precision)
            runtime = served.ask(BODY, precision).json()["runtime"]
            log = served.server.workers_log.read_text(errors="replace")
            lines = re.findall(rf"-{precision}_1.0-\w+ - .*(FALLBACK tiny: .*)", log)
            if has_bf16(isa) or precision == "f32":
                expected = {"name": "openvino", "precision": precision, "fallback": None}
                assert (runtime, lines) == (expected, [])
                continue
            assert runtime["precision"] == FOUND[precision]
            assert re.search(rf"packed as {precision}.* but {REASON}: ", runtime["fallback"])
            assert lines == [f"FALLBACK tiny: {runtime['fallback']}"]
        gauge = {name: name != "f32" and not has_bf16(isa) for name in archives}
        begin = time.monotonic()
        while True:
            page = parse(served.ask(b"", purpose="metrics", path="/metrics").body.decode())
            said = {name: fallback_runtime(page, name) for name in archives}
            if {name: said[name] == "openvino" for name in archives} == gauge:
                break
            assert time.monotonic() - begin < 20, said
            time.sleep(0.2)
