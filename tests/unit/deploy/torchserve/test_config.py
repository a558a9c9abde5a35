from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deploy.torchserve import config, state
from deploy.torchserve.archives import Archive
from deploy.torchserve.settings import make
from handlers.errors import KitError
from handlers.tracing import VARIABLE
from tests.support.archives import RECORD

TEMP = Path("/kit-serve-x")


def archive(name: str, version: str = "1.0") -> Archive:
    return Archive(Path(f"/store/{name}.mar"), version, "detection", "0" * 64, 1, RECORD)


def read_properties(text: str) -> dict[str, str]:
    """A properties file as Java reads it."""
    found = {}
    for line in text.splitlines():
        key, _, value = line.partition("=")
        units = re.sub(
            r"\\u([0-9a-f]{4})|\\(.)", lambda m: chr(int(m[1], 16)) if m[1] else m[2], value
        )
        found[key] = units.encode("utf-16-be", "surrogatepass").decode("utf-16-be")
    return found


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_value_survives_a_properties_file(value: str) -> None:
    text = config.properties_text({"key": value})
    assert text.isascii()
    assert text.count("\n") == 1
    assert read_properties(text) == {"key": value}


def test_nothing_can_be_registered_or_fetched() -> None:
    found = config.properties(make({}), [archive("fd1")], TEMP)
    assert found["enable_model_api"] == "false"
    assert found["install_py_dep_per_model"] == "false"
    allowed = re.compile(found["allowed_urls"])
    assert not any(allowed.match(u) for u in ("", "x", "http://a/b.mar", "file:///b.mar"))


def test_named_model_gets_the_workers_and_every_version_is_its_own() -> None:
    settings = make({"workers": "3", "batch_size": "8", "max_batch_delay": "7"})
    found = config.properties(settings, [archive("fd1"), archive("b", "2.1")], TEMP)
    models = json.loads(found["model_snapshot"])["models"]
    assert models["fd1"]["1.0"]["minWorkers"] == models["fd1"]["1.0"]["maxWorkers"] == 3
    assert models["b"]["2.1"]["minWorkers"] == 1
    assert models["b"]["2.1"]["batchSize"] == 8
    assert models["b"]["2.1"]["maxBatchDelay"] == 7
    for name, own in (("fd1", "1.0"), ("b", "2.1")):
        assert [v for v, told in models[name].items() if told["defaultVersion"]] == [own]
        spares = [told for version, told in models[name].items() if version != own]
        assert spares
        assert all(told["minWorkers"] == told["maxWorkers"] == 0 for told in spares)


def test_heap_lets_the_largest_request_through() -> None:
    for size in (1, 256, 1024):
        assert config.heap_mb(size) > 3 * size


def test_workers_inherit_only_what_is_named(tmp_path: Path) -> None:
    source = {"PYTHONPATH": "/evil", "TS_CONFIG_FILE": "/evil", "PATH": "/bin", "LC_ALL": "C"}
    source |= {"PYTHONSTARTUP": "/evil", "JAVA_TOOL_OPTIONS": "-evil", "OMP_NUM_THREADS": "99"}
    source |= {"ONEDNN_MAX_CPU_ISA": "AVX2"}  # as the repack saw the processor
    found = config.environment(make({"threads": "2"}), tmp_path, source)
    assert not any("evil" in value for value in found.values())
    assert (found["PATH"], found["OMP_NUM_THREADS"]) == ("/bin", "2")
    assert found["LC_ALL"] == "C.UTF-8", "Java opens files whose path is not ASCII"
    assert found["ONEDNN_MAX_CPU_ISA"] == "AVX2"


def test_traces_go_where_the_server_was_told_and_nowhere_else(tmp_path: Path) -> None:
    source = {VARIABLE: "http://elsewhere:4318", "OTEL_SERVICE_NAME": "mine"}
    found = config.environment(make({}), tmp_path, source)
    assert (found[VARIABLE], found["OTEL_SERVICE_NAME"]) == ("", "mine")
    asked = make({"otel_exporter_otlp_endpoint": "http://127.0.0.1:4318"})
    assert config.environment(asked, tmp_path, source)[VARIABLE] == "http://127.0.0.1:4318"
    with pytest.raises(KitError, match="expected an address such as http"):
        make({"otel_exporter_otlp_endpoint": "127.0.0.1:4318"})


def test_metrics_name_what_the_handlers_report() -> None:
    declared = yaml.safe_load((config.HERE / "metrics.yaml").read_text())["model_metrics"]
    names = {m["name"]: m["dimensions"] for kind in declared.values() for m in kind}
    common = ["ModelName", "Level"]
    assert names["handler_stage_milliseconds"] == [*common, "Stage"]
    assert names["handler_items"] == [*common, "Outcome"]
    assert names["handler_batches"] == common
    assert names["handler_fallback"] == [*common, "Runtime"]


def test_temporary_folder_is_private_and_its_sockets_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    found = state.new_temp()
    try:
        assert len(os.fsencode(f"{found}{state.SOCKET_NAME}")) <= state.SOCKET_LIMIT
        assert stat.S_IMODE(found.stat().st_mode) == 0o700
    finally:
        found.rmdir()


@pytest.mark.parametrize("cores", [2, 16])
def test_the_guards_share_what_the_server_may_take(
    cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch a worker in work and one ready are TorchServe's; the rest of the queue waits."""
    monkeypatch.setattr(config, "cores", lambda: cores)
    settings = make({"workers": "3", "batch_size": "8", "queue": "100", "volume_memory_mb": "512"})
    found = config.guards(settings, [archive("fd1"), archive("b")], TEMP, 77)
    count = len(found)
    assert count == (4 if cores > 8 else 1)
    first = found[0]
    assert first["models"] == {"fd1": (48 // count, 76 // count), "b": (16 // count, 92 // count)}
    assert first["max_json"] == (512 << 20) // 8
    assert first["max_body"] == 256 << 20
    assert int(str(first["held"])) >= 256 << 20
    properties = config.properties(settings, [archive("fd1")], TEMP)
    assert properties["inference_address"] == f"unix:{first['socket']}"


def test_a_queue_shorter_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make({"workers": "1", "batch_size": "4", "queue": "1"})
    monkeypatch.setattr(config, "cores", lambda: 2)
    (given,) = config.guards(settings, [archive("fd1")], TEMP, 77)
    assert given["models"] == {"fd1": (5, 0)}
