"""The command line of deploy.ray, and the manifest that gives the same values."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.ray import settings
from deploy.ray.settings import parse
from deploy.torchserve.settings import ROOT
from handlers.errors import KitError


def test_values_are_read() -> None:
    read = parse(["--replicas", "2:5", "--gpu", "0.25", "--batch-size", "8"])
    assert (read.action, read.replicas, read.gpu, read.batch_size) == ("serve", (2, 5), 0.25, 8)
    assert parse([]).batch_size is None
    assert parse(["--cluster", "auto", "--update", "a.mar"]).archive == Path("a.mar")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--replicas 0", "--replicas: expected a number from 1"),
        ("--replicas 3:2", "--replicas: expected a number from 1"),
        ("--gpu 1.5", "--gpu: expected a share"),
        ("--port 99999", "--port: expected a whole number"),
        ("--stop", "--stop needs --cluster"),
        ("--update a.mar", "--update needs --cluster"),
        ("--keep", "--sample and --keep belong to --update"),
        ("--host 0.0.0.0", "--host 0.0.0.0 is open beyond this machine: give --token-file"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_flag(line: str, said: str) -> None:
    with pytest.raises(KitError) as e:
        parse(line.split())
    assert str(e.value).startswith(said)
    assert "\n" not in str(e.value)


def test_a_token_file_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    (digest,) = parse(["--host", "0.0.0.0", "--token-file", str(file)]).token_hashes()
    assert file.stat().st_mode & 0o777 == 0o600
    assert hashlib.sha256(file.read_bytes().strip()).hexdigest() == digest
    file.write_text("one\ntwo\n")
    assert len(parse(["--token-file", str(file)]).token_hashes()) == 2
    file.write_text("\n")
    with pytest.raises(KitError, match="it holds no token"):
        parse(["--token-file", str(file)]).token_hashes()


def test_the_manifest_gives_what_the_command_line_takes() -> None:
    service = yaml.safe_load((Path(settings.__file__).parent / "rayservice.yaml").read_text())
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    spec: dict[str, Any] = service["spec"]
    config = yaml.safe_load(spec["serveConfigV2"])
    (application,) = config["applications"]
    module, _, name = application["import_path"].partition(":")
    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None
    assert f"def {name}(args" in Path(found.origin).read_text(encoding="utf-8")
    read = parse([f"--{flag}={value}" for flag, value in application["args"].items()])
    assert (read.host, read.port) == tuple(config["http_options"][k] for k in ("host", "port"))
    pinned = re.search(r"^ray\[serve\]==(.*)$", (ROOT / "requirements-ray.txt").read_text(), re.M)
    cluster = spec["rayClusterConfig"]
    assert pinned and pinned[1] == cluster["rayVersion"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        (container,) = pod["containers"]
        mounts = {m["name"]: Path(m["mountPath"]) for m in container["volumeMounts"]}
        assert mounts.keys() == {v["name"] for v in pod["volumes"]}
        assert read.model_store == mounts["models"]
        assert read.token_file is not None and read.token_file.parent == mounts["tokens"]
        assert int(container["resources"]["limits"]["cpu"]) >= 1
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert int(groups[1]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]) >= (
        read.threads
    )
