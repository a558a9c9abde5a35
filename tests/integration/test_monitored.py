"""A real Prometheus at a real server: the dashboard shows figures, the alerts are evaluated."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import requests

from tests.support import made, prometheus
from tests.support.servers import serving, settings_for

pytestmark = pytest.mark.slow

PICTURE = sorted(made.PICTURES.glob("*.jpg"))[0].read_bytes()
VOLUMES_ONLY = "Windows a second A"
NOTHING_FAILED = {"HTTP answers a second C"}
"""5xx: a series that is not there before the first."""


def test_every_expression_has_figures_of_a_real_server(tmp_path: Path) -> None:
    prometheus.required("prometheus")
    (tmp_path / "store").mkdir()
    shutil.copy(made.detector(), tmp_path / "store" / "fd1.mar")
    settings = settings_for(tmp_path / "store", tmp_path / "run", name="fd1")
    metrics = settings.ports["metrics"][1]
    asked = prometheus.shown("30s")
    with serving(settings), prometheus.scraping(tmp_path, metrics) as found:

        def ask(body: bytes) -> int:
            url = f"http://127.0.0.1:{settings.port}/predictions/fd1"
            return requests.post(url, body, timeout=30).status_code

        def refused() -> int:
            url = f"http://127.0.0.1:{settings.port}/predictions/fd1/9.9"
            return requests.post(url, PICTURE, timeout=30).status_code

        assert (ask(PICTURE), ask(b"nope")) == (200, 400)  # rates need a first value
        for _ in range(6):
            time.sleep(1.1)
            assert (ask(PICTURE), ask(b"nope"), refused()) == (200, 400, 404)
        page = requests.get(f"http://127.0.0.1:{metrics}/metrics", timeout=10).text
        empty = {title for title, expression in asked.items() if not found.ask(expression)}
        assert empty == {VOLUMES_ONLY, *NOTHING_FAILED}
        stages = found.ask(asked["Milliseconds an item, by stage A"])
        assert {s["metric"]["Stage"] for s in stages} >= {"decode", "infer", "encode"}
        assert all(float(s["value"][1]) > 0 for s in stages)
        reasons = found.ask(asked["Refused by the guard, a second A"])
        happened = [s["metric"]["Reason"] for s in reasons if float(s["value"][1]) > 0]
        assert happened == ["unknown"]

        exported = {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")}
        for expression in (*asked.values(), *prometheus.alerts().values()):
            assert set(prometheus.SELECTOR.findall(expression)) <= exported | {"up"}

        rules = found.rules()
        assert set(rules) == set(prometheus.alerts())
        states = {name: (rule["health"], rule["state"]) for name, rule in rules.items()}
        assert states.pop("ItemsRejected") == ("ok", "pending")  # half of them were
        assert set(states.values()) == {("ok", "inactive")}
