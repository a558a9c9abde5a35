"""The manifests say what the image and the schemas take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.torchserve.settings import OPTIONS, ROOT, parse
from tests.support import environments, manifests_check

MANIFESTS = sorted((ROOT / "deploy" / "kserve" / "manifests").glob("*.yaml"))
SHARED = ROOT.parent / "shared" / "kserve"


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping within."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, (dict, list)):
            yield from mappings(each)


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.stem)
def test_variables_are_settings_and_ports_are_those_that_listen(path: Path) -> None:
    for document in documents(path):
        containers = [m for m in mappings(document) if "image" in m]
        for container in containers:
            given = {entry["name"]: entry["value"] for entry in container["env"]}
            assert given.keys() <= {option.variable for option in OPTIONS}
            given = {k: v.replace("{{.Name}}", "fd1") for k, v in given.items()}
            _, settings = parse((), {"HOST": "0.0.0.0", **given})
            assert not settings.needs_tokens
            listening = {port for host, port in settings.ports.values() if host == "0.0.0.0"}
            assert {port["containerPort"] for port in container["ports"]} <= listening


def test_probes_are_paths_of_the_protocol() -> None:
    every = [m for path in MANIFESTS for m in mappings(documents(path))]
    paths = {m["httpGet"]["path"] for m in every if "httpGet" in m}
    assert paths == {"/v2/health/ready", "/v2/health/live"}


@pytest.mark.slow
def test_they_are_what_the_published_schemas_take(tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip("KServe's CustomResourceDefinitions are not beside this checkout")
    environment = environments.made("manifests", manifests_check.PACKAGES)
    python, definitions = environment / "bin" / "python", sorted(SHARED.glob("*.yaml"))
    assert manifests_check.faults(python, MANIFESTS, definitions) == []
    for number, (right, wrong) in enumerate(
        [("maxReplicas", "maxReplica"), ("scaleTarget: 4", "scaleTarget: a"), ("egress", "egres")]
    ):
        changed = []
        for path in MANIFESTS:
            changed.append(tmp_path / f"{number}-{path.name}")
            changed[-1].write_text(path.read_text().replace(right, wrong))
        assert manifests_check.faults(python, changed, definitions), wrong
