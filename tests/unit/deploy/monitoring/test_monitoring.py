"""The dashboard and the alerts: valid by Prometheus' own tool, and of metrics that there are."""

from __future__ import annotations

import shutil
from itertools import combinations
from pathlib import Path

import yaml

from deploy.torchserve.guard import figures
from tests.support.made import ROOT
from tests.support.prometheus import FOLDER, SELECTOR, alerts, panels, promtool, shown

TESTS = Path(__file__).with_name("alerts_test.yml")


def test_the_rules_are_valid_and_fire_when_they_must(tmp_path: Path) -> None:
    promtool("check", "config", FOLDER / "prometheus.yml")
    for file in (FOLDER / "alerts.yml", TESTS):
        shutil.copy(file, tmp_path)
    promtool("test", "rules", tmp_path / TESTS.name)
    wrong = yaml.safe_load(TESTS.read_text())["tests"][-1]["alert_rule_test"]
    assert {test["alertname"] for test in wrong if "exp_alerts" in test} == set(alerts())


def test_what_the_dashboard_asks_is_valid(tmp_path: Path) -> None:
    rules = [{"record": f"asked_{i}", "expr": e} for i, e in enumerate(shown("1m").values())]
    file = tmp_path / "asked.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


def test_only_metrics_of_the_servers_page_are_asked() -> None:
    told = yaml.safe_load((ROOT / "deploy" / "torchserve" / "metrics.yaml").read_text())
    given = {
        metric["name"]
        for part in ("ts_metrics", "model_metrics")
        for kind in told[part].values()
        for metric in kind
    }
    for expression in (*shown("1m").values(), *alerts().values()):
        named = set(SELECTOR.findall(expression))
        assert named and named <= {*given, figures.NAME, "up"}, expression


def test_panels_lie_beside_each_other() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels())
    for a, b in combinations([panel["gridPos"] for panel in panels()], 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert max(a["x"] + a["w"], b["x"] + b["w"]) <= 24
