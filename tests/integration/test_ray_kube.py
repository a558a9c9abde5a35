"""What the manifest for KubeRay tells Serve, on a real Ray."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml

from tests.support import rays
from tests.support.hosted import echo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HEAD = "127.0.0.1:21700"


def test_the_manifests_application_is_served(tmp_path: Path) -> None:
    """What KubeRay would hand to Serve, with this machine's paths."""
    service = yaml.safe_load((rays.ROOT / "deploy" / "ray" / "rayservice.yaml").read_text())
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    store = tmp_path / "store"
    echo(store, "echo")
    (store / "cut.mar").write_bytes(b"PK")
    (tmp_path / "tokens").write_text("mine\n")
    config["http_options"] = {"host": "127.0.0.1", "port": 21011}
    given = {"model-store": str(store), "token-file": str(tmp_path / "tokens"), "threads": "1"}
    config["applications"][0]["args"] |= given
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    folder = tmp_path / "ray"
    folder.mkdir()
    with rays.network(), rays.node(folder, "127.0.0.1"):
        line = [str(rays.python().parent / "serve"), "run", str(tmp_path / "config.yaml")]
        process = rays.begun([*line, "--address", HEAD], tmp_path / "serve.log")
        try:
            url, end = "http://127.0.0.1:21011/predictions/echo", time.monotonic() + 60
            rays.wait_said(process, tmp_path / "serve.log", "Submitted deploy config successfully")
            while rays.ask(url, b"x").status != 401 and time.monotonic() < end:
                time.sleep(0.2)
            assert rays.ask(url, b"x").status == 401
            reply = rays.ask(url, b"x", {"Authorization": "Bearer mine"})
            assert (reply.status, json.loads(reply.body)["bytes"]) == (200, 1)
        finally:
            process.kill()
            process.wait()
