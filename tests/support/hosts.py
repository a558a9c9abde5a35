"""Servers of one archive, by name: each is asked in its own way and answers the same bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from deploy.triton.__main__ import main as write_repository
from tests.support import environments, rays, triton, v2_client
from tests.support.servers import free_ports, serving, settings_for

Ask = Callable[[str, bytes, str], bytes]
"""Model, body and accepted media type to the answer's body; fails where its status is not 200."""

Host = Callable[[Mapping[str, Path], Path], AbstractContextManager[Mapping[str, Ask]]]
"""Archives by name and an empty folder to what asks them, by protocol."""


def _v2(asker: v2_client.Asker, protocol: str) -> Ask:
    def ask(model: str, body: bytes, accept: str) -> bytes:
        answered = asker.ask(protocol, model, [body], accept=accept)
        assert answered.statuses == [200], answered
        return answered.bodies[0]

    return ask


def asker(urls: Mapping[str, str]) -> v2_client.Asker:
    """tritonclient from an environment of its own."""
    python = environments.made("tritonclient", v2_client.PACKAGES) / "bin" / "python"
    return v2_client.Asker(python, urls)


@contextmanager
def torchserve(archives: Mapping[str, Path], room: Path) -> Iterator[Mapping[str, Ask]]:
    """The kit's own server: TorchServe's predictions and the Open Inference Protocol."""
    import requests

    (room / "store").mkdir()
    for name, path in archives.items():
        shutil.copyfile(path, room / "store" / f"{name}.mar")
    _, v2_port = free_ports()
    first = next(iter(archives))
    settings = settings_for(room / "store", room / "run", name=first, v2_grpc_port=v2_port)
    url = f"127.0.0.1:{settings.port}"

    def predict(model: str, body: bytes, accept: str) -> bytes:
        answer = requests.post(
            f"http://{url}/predictions/{model}", body, headers={"Accept": accept}, timeout=120
        )
        assert answer.status_code == 200, answer.text
        return answer.content

    v2 = asker({"http": url, "grpc": f"127.0.0.1:{v2_port}"})
    with serving(settings) as server:
        for name in archives:
            server.wait_ready(name)
        yield {"predictions": predict, "v2 http": _v2(v2, "http"), "v2 grpc": _v2(v2, "grpc")}


@contextmanager
def triton_server(archives: Mapping[str, Path], room: Path) -> Iterator[Mapping[str, Ask]]:
    """Triton, whose Python backend runs the archive's own handlers."""
    for name, path in archives.items():
        flags = ["--repository", str(room / "models"), "--instances", "1", "--name", name]
        assert write_repository([str(path), *flags]) == 0
    with triton.serving(room / "models", triton.HANDLERS) as found:
        v2 = asker(found.urls)
        yield {"v2 http": _v2(v2, "http"), "v2 grpc": _v2(v2, "grpc")}


@contextmanager
def ray(archives: Mapping[str, Path], room: Path) -> Iterator[Mapping[str, Ask]]:
    """Ray Serve, a replica for each archive on a node that has a CPU for each."""
    (room / "store").mkdir()
    for name, path in archives.items():
        shutil.copyfile(path, room / "store" / f"{name}.mar")
    head, port = "127.0.0.1:21700", "21000"
    flags = ("--cluster", head, "--port", port, "--replicas", "1")

    def predict(model: str, body: bytes, accept: str) -> bytes:
        url = f"http://127.0.0.1:{port}/predictions/{model}"
        reply = rays.ask(url, body, {"Accept": accept})
        assert reply.status == 200, reply.body
        return reply.body

    with rays.network(), rays.node(room, "127.0.0.1", cpus=len(archives)):
        done = rays.run(*flags, "--model-store", room / "store")
        assert done.stdout.count("READY") == len(archives), done.stdout + done.stderr
        yield {"predictions": predict}


HOSTS: Mapping[str, Host] = {"torchserve": torchserve, "triton": triton_server, "ray": ray}
