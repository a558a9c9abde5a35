"""A real Prometheus and its promtool, as Debian has them (``apt-get install prometheus``)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.support.servers import free_ports

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
SELECTOR = re.compile(r"([A-Za-z_:][\w:]*)\{")
"""A metric as the kit's files write it: always with braces."""


def required(program: str) -> str:
    """The program's path; skips the test where there is none."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"no {program} here: apt-get install prometheus")
    return path


def promtool(*words: str | Path) -> str:
    """What promtool says; fails where it says no."""
    command = [required("promtool"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / "grafana.json").read_text())["panels"]
    return found


def shown(span: str) -> dict[str, str]:
    """What the dashboard asks: a title -> its expression, with Grafana's variables filled in."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        .replace("$__rate_interval", span)
        .replace("$model", ".*")
        for panel in panels()
        for target in panel["targets"]
    }


def alerts() -> dict[str, str]:
    """Alert -> its expression."""
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for rule in group["rules"]}


class Prometheus:
    """A Prometheus that runs."""

    def __init__(self, port: int):
        self.url = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query; fails where it is not valid."""
        answer = requests.get(f"{self.url}/query", {"query": expression}, timeout=10).json()
        assert answer["status"] == "success", (expression, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def rules(self) -> dict[str, dict[str, Any]]:
        answer = requests.get(f"{self.url}/rules", timeout=10).json()
        return {r["name"]: r for group in answer["data"]["groups"] for r in group["rules"]}


@contextmanager
def scraping(room: Path, port: int) -> Iterator[Prometheus]:
    """A Prometheus of the kit's configuration, every second at another port of loopback."""
    program = required("prometheus")
    told = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    told["global"] = {"evaluation_interval": "1s"}
    told["rule_files"] = [str(FOLDER / "alerts.yml")]
    (job,) = told["scrape_configs"]
    job |= {"scrape_interval": "1s", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
    config = room / "prometheus.yml"
    config.write_text(yaml.safe_dump(told))
    own, _ = free_ports()
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={room / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{own}", "--log.level=warn"]
    with (room / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        found = Prometheus(own)
        end = time.monotonic() + 60
        while True:
            try:
                if found.ask('up{job="torchserve-repack"}'):
                    break
            except requests.ConnectionError:
                pass
            assert time.monotonic() < end and process.poll() is None, (
                room / "prometheus.log"
            ).read_text()
            time.sleep(0.2)
        yield found
    finally:
        process.terminate()
        process.wait(30)
