"""Ray Serve's applications: one for each archive, and the ingress before them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray import serve

from deploy.hosting.model import batch_sizes
from deploy.ray.ingress import Ingress
from deploy.ray.replica import Process, Replica, Served, Shared, archive_id
from deploy.ray.settings import Settings
from deploy.torchserve.archives import Archive
from deploy.torchserve.settings import ROOT, share_of_memory
from handlers.memory import LIMIT_VARIABLE
from handlers.passport import FILE
from handlers.payload import MAX_BODY_VARIABLE

INGRESS, SHARED = "kit-ingress", "kit-shared"
VERSION = "1"
"""Of the ingress's code: where it stays the same, Serve gives running ingresses another table."""


def app_name(archive: Archive) -> str:
    """Of the application that serves this archive and no other."""
    return f"{archive.name}-{archive.version}-{archive.sha256[:12]}"


def model(archive: Archive, settings: Settings, name: str = "model") -> Any:
    """The application of one archive, in which it is the deployment of this name."""
    with zipfile.ZipFile(archive.path) as z:
        built = batch_sizes(json.loads(z.read(FILE)))
    served = served_with(settings, settings.batch_size or max(built, default=1))
    path = str(archive.path.absolute())
    served = replace(served, path=path, sha256=archive.sha256, name=archive.name)
    return deployed(Replica, name, settings, served.batch_size).bind(served)


def shared(settings: Settings, name: str = "model") -> Any:
    """The application whose replicas hold any archives, each ``settings.share`` of them."""
    served = served_with(settings, settings.batch_size or 1)
    return deployed(Shared, name, settings, served.batch_size).bind(served, settings.share)


def served_with(settings: Settings, batch_size: int) -> Served:
    """What replicas are made of, but for the archive."""
    return Served(
        path="",
        sha256="",
        name="",
        batch_size=batch_size,
        max_batch_delay=settings.max_batch_delay,
        threads=settings.threads,
        gpu=settings.gpu > 0,
        response_timeout=settings.response_timeout,
    )


def deployed(kind: type[Process], name: str, settings: Settings, size: int) -> Any:
    """The deployment of this name, for batches of ``size``; to be bound."""
    low, high = settings.replicas
    scale: dict[str, Any] = {"num_replicas": low}
    if low < high:
        # One batch in work and half a batch waiting, for each replica.
        target = {"target_ongoing_requests": 1.5 * size}
        scale = {"autoscaling_config": {"min_replicas": low, "max_replicas": high, **target}}
    return serve.deployment(kind).options(
        name=name,
        max_ongoing_requests=2 * size,
        max_queued_requests=settings.queue,
        max_constructor_retry_count=1,
        max_surge_percent=100,  # served anew with other values: the new ones first
        graceful_shutdown_timeout_s=settings.drain_timeout,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=5,
        ray_actor_options={
            "num_cpus": settings.threads,
            "num_gpus": settings.gpu,
            "runtime_env": {"env_vars": variables(settings)},
        },
        **scale,
    )


def ingress(
    table: Mapping[str, Any], settings: Settings, bound: Mapping[str, Any], count: int = 1
) -> Any:
    """The application before the models.

    Args:
        bound: applications that become part of it, by their name in the table.
        count: how many of it there are; as many as nodes, so that losing one loses no address.
    """
    deployment = serve.deployment(Ingress).options(
        name="ingress",
        version=VERSION,
        _internal=True,  # Serve gives each deployment another version, and so ends its replicas
        num_replicas=count,
        max_replicas_per_node=1,
        user_config=dict(table),
        max_ongoing_requests=10_000,  # each model's own queue is the bound
        graceful_shutdown_timeout_s=settings.drain_timeout,
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": {"PYTHONPATH": str(ROOT)}}},
    )
    return deployment.bind(**bound)


def variables(settings: Settings) -> dict[str, str]:
    """The environment of a replica, as TorchServe's workers have it."""
    return {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(settings.threads),
        MAX_BODY_VARIABLE: str(settings.max_request_mb << 20),
        LIMIT_VARIABLE: str(share_of_memory(settings.replicas[1])),
    }


def new_table(settings: Settings) -> dict[str, Any]:
    """A ingress's table without models."""
    return {
        "models": {},
        "tokens": settings.token_hashes(),
        "max_body": settings.max_request_mb << 20,
        "response_timeout": settings.response_timeout,
    }


def entry(archive: Archive, settings: Settings) -> dict[str, str]:
    """Which application answers an archive; ``archive`` is what replicas that are shared are
    asked for."""
    if settings.share is None:
        return {"app": app_name(archive), "sha256": archive.sha256}
    asked = archive_id(archive.path, archive.sha256, archive.name)
    return {"app": SHARED, "archive": asked, "sha256": archive.sha256}


def with_model(
    table: Mapping[str, Any], archive: Archive, settings: Settings, keep: bool
) -> dict[str, Any]:
    """The table with an archive as its model's default; other versions stay where ``keep``."""
    before = table["models"].get(archive.name, {"versions": {}})["versions"]
    versions = {**(before if keep else {}), archive.version: entry(archive, settings)}
    entry_of_model = {"default": archive.version, "versions": versions}
    return {**table, "models": {**table["models"], archive.name: entry_of_model}}
