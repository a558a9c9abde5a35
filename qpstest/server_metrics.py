"""What the server says about itself: its Prometheus page and its management API."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from handlers.errors import KitError
from qpstest.http_api import split_url
from qpstest.stats import rounded

Sample = tuple[str, tuple[tuple[str, str], ...]]
"""A counter's name and its labels, sorted."""

_LINE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
STAGES = ("decode", "gpu_server", "preprocess", "infer", "postprocess", "encode")
START_HINT = "start it with bash run.sh"


@dataclass(frozen=True)
class Worker:
    """One worker process of the server."""

    pid: int
    status: str


@dataclass(frozen=True)
class ModelStatus:
    """What the management API says of a model; all fields as TorchServe gives them."""

    version: str
    batch: int
    delay_ms: int
    workers: tuple[Worker, ...] = ()


def fetch(
    url: str, path: str, token: str | None = None, timeout: float = 10.0, hint: str = START_HINT
) -> tuple[int, bytes]:
    """(status, body) of a GET request.

    Args:
        hint: what to do where nothing answers.

    Raises:
        KitError: nothing answers there.
    """
    secure, host, port = split_url(url)
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(host, port, timeout=timeout)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as e:
        raise KitError(f"nothing answers at {url}: {hint} ({e})") from None


def model_status(url: str, model: str, token: str | None) -> ModelStatus:
    """The model's registration and workers.

    Raises:
        KitError: no such model, a wrong token, or nothing answers.
    """
    status, body = fetch(url, f"/models/{quote(model, safe='')}", token)
    if status == 404:
        known = ", ".join(_model_names(url, token)) or "none"
        raise KitError(f"the server at {url} has no model {model!r}; registered: {known}")
    if status != 200:
        line = body.decode("utf-8", "replace").replace("\n", " ").strip()[:200]
        raise KitError(f"the management API at {url} answered {status}: {line}")
    entry = json.loads(body)[0]
    return ModelStatus(
        version=str(entry["modelVersion"]),
        batch=int(entry["batchSize"]),
        delay_ms=int(entry["maxBatchDelay"]),
        workers=tuple(Worker(int(w["pid"]), str(w["status"])) for w in entry["workers"]),
    )


def description(url: str, model: str, token: str | None) -> dict[str, Any]:
    """What the model's handler says when asked to describe itself; empty where it says nothing."""
    with contextlib.suppress(KitError, ValueError, LookupError, TypeError):
        path = f"/models/{quote(model, safe='')}?customized=true"
        summary = json.loads(fetch(url, path, token)[1])[0]["customizedMetadata"]
        found = json.loads(summary) if isinstance(summary, str) else summary
        return found if isinstance(found, dict) else {}
    return {}


def _model_names(url: str, token: str | None) -> list[str]:
    with contextlib.suppress(KitError, ValueError, KeyError):
        return [m["modelName"] for m in json.loads(fetch(url, "/models", token)[1])["models"]]
    return []


def parse(page: str) -> dict[Sample, float]:
    """The samples of a Prometheus text page; comments and lines of other forms are passed over."""
    samples: dict[Sample, float] = {}
    for line in page.splitlines():
        match = _LINE.match(line)
        if not match:
            continue
        with contextlib.suppress(ValueError):
            labels = tuple(sorted(_LABEL.findall(match[2] or "")))
            samples[match[1], labels] = float(match[3])
    return samples


def scrape(url: str) -> dict[Sample, float]:
    """The samples of the server's metrics page; raises ``KitError`` where there is none."""
    status, body = fetch(url, "/metrics")
    if status != 200:
        raise KitError(f"the metrics page at {url}/metrics answered {status}")
    return parse(body.decode("utf-8", "replace"))


def scrape_settled(url: str, patience: float = 1.0) -> dict[Sample, float]:
    """As ``scrape``, once two pages in a row are the same: the server reads its workers' metrics
    from their log a moment after it has answered."""
    deadline = time.monotonic() + patience
    before = scrape(url)
    while time.monotonic() < deadline:
        time.sleep(0.15)
        after = scrape(url)
        if after == before:
            break
        before = after
    return before


@dataclass(frozen=True)
class ServerTimes:
    """Means per request between two scrapes, in milliseconds; None where the server did not say.

    Attributes:
        queue: from arrival to a worker.
        inside: from arrival to the answer's sending, the queue included.
        stages: of the handler, in their order.
        items: how many items the workers reported, by outcome.
        batch: items per batch.
        batches: how many.
        requests: that got into the queue.
    """

    queue: float | None
    inside: float | None
    stages: dict[str, float]
    items: dict[str, float]
    batch: float | None
    batches: float
    requests: float


def between(
    before: Mapping[Sample, float], after: Mapping[Sample, float], model: str, refused: int = 0
) -> ServerTimes:
    """What happened to ``model`` between two scrapes.

    Args:
        refused: requests that never reached the queue (overload) in between.
    """

    def grown(name: str, split: str | None = None) -> dict[str, float]:
        totals: dict[str, float] = {}
        for key, value in after.items():
            labels = dict(key[1])
            if key[0] != name or labels.get("ModelName", labels.get("model_name")) != model:
                continue
            more = value - before.get(key, 0.0)
            more = value if more < 0 else more  # the server began anew
            part = labels.get(split, "") if split else ""
            totals[part] = totals.get(part, 0.0) + more
        return totals

    def total(name: str) -> float:
        return sum(grown(name).values())

    answered = total("ts_inference_requests_total") - refused
    items = {k: v for k, v in grown("handler_items", "Outcome").items() if v}
    good = items.get("ok", 0.0)
    batches = total("handler_batches")
    stages = grown("handler_stage_milliseconds", "Stage") if good > 0 else {}
    return ServerTimes(
        queue=_mean(total("ts_queue_latency_microseconds") / 1e3, answered),
        inside=_mean(total("ts_inference_latency_microseconds") / 1e3, answered),
        stages={s: round(stages[s] / good, 3) for s in _ordered(stages)},
        items=items,
        batch=rounded(sum(items.values()) / batches, 2) if batches > 0 else None,
        batches=batches,
        requests=max(0.0, answered),
    )


def _mean(total: float, count: float) -> float | None:
    return rounded(total / count) if count > 0 and total > 0 else None


def _ordered(names: Iterable[str]) -> list[str]:
    present = set(names)
    return [s for s in STAGES if s in present] + sorted(present.difference(STAGES))


def fallback_runtime(samples: Mapping[Sample, float], model: str) -> str | None:
    """The runtime that serves in place of the accelerated one, if any worker says so."""
    for (name, labels), value in samples.items():
        fields = dict(labels)
        if name == "handler_fallback" and value > 0 and fields.get("ModelName") == model:
            return fields.get("Runtime", "portable")
    return None
