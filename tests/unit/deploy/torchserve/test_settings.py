from __future__ import annotations

from pathlib import Path

import pytest

from deploy.torchserve import settings
from deploy.torchserve.settings import OPTIONS, cores, is_loopback, make, parse
from handlers.errors import KitError


def test_defaults_keep_every_port_on_loopback_without_tokens() -> None:
    found = make({})
    assert found.ports == {
        "predictions": ("127.0.0.1", 8080),
        "management": ("127.0.0.1", 8081),
        "metrics": ("127.0.0.1", 8082),
        "gRPC predictions": ("127.0.0.1", 7070),
        "gRPC management": ("127.0.0.1", 7071),
    }
    assert not found.needs_tokens
    assert found.name == "fd1"
    assert found.run_dir == settings.ROOT / ".run"


def test_workers_and_threads_share_the_cores() -> None:
    found = make({})
    assert found.workers == min(cores(), 4)
    assert found.threads == max(1, cores() // found.workers)
    assert make({"workers": "1"}).threads == cores()
    assert make({"workers": "200"}).threads == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7"])
def test_tokens_are_on_beyond_loopback_and_management_stays_there(host: str) -> None:
    found = make({"host": host})
    assert found.needs_tokens
    assert found.ports["management"][0] == found.ports["gRPC management"][0] == "127.0.0.1"
    assert make({"management_host": host}).needs_tokens


def test_tokens_are_off_beyond_loopback_only_where_that_was_said() -> None:
    found = make({"host": "0.0.0.0", "without_tokens": "1"})
    assert found.is_exposed
    assert not found.needs_tokens
    with pytest.raises(KitError, match="contradict each other"):
        make({"without_tokens": "1", "tokens": "1"})
    with pytest.raises(KitError, match=r"--management-host 192\.0\.2\.7 would let anyone"):
        make({"without_tokens": "1", "management_host": "192.0.2.7"})


def test_metrics_may_be_open_where_management_is_not() -> None:
    assert make({"management_host": "127.0.0.2"}).ports["metrics"][0] == "127.0.0.2"
    found = make({"without_tokens": "1", "host": "192.0.2.7", "metrics_host": "192.0.2.7"})
    assert (found.ports["metrics"][0], found.ports["management"][0]) == ("192.0.2.7", "127.0.0.1")
    assert not found.needs_tokens


def test_localhost_is_loopback() -> None:
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")


def test_unknown_host_is_one_line() -> None:
    with pytest.raises(KitError, match=r"host no-such-host\.invalid is not known here"):
        is_loopback("no-such-host.invalid")


def test_flag_wins_over_environment_over_default() -> None:
    _, found = parse(["--workers", "3"], {"WORKERS": "2", "BATCH_SIZE": "8", "PORT": ""})
    assert (found.workers, found.batch_size, found.port) == (3, 8, 8080)


@pytest.mark.parametrize(("flag", "action"), [("--stop", "stop"), ("--status", "status")])
def test_actions(flag: str, action: str) -> None:
    assert parse([flag], {})[0] == action
    assert parse([], {})[0] == "start"


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        ("workers", "0", "from 1 to 256"),
        ("workers", "two", "'two'"),
        ("max_batch_delay", "0", "from 1 to 60000"),
        ("port", "70000", "from 1 to 65533"),
        ("host", "::1", "IPv4 address or a host name"),
        ("name", "../x", "letters, digits"),
        ("access_log", "maybe", "0 or 1"),
    ],
)
def test_bad_value_names_the_flag_the_variable_and_what_came(
    field: str, text: str, expected: str
) -> None:
    with pytest.raises(KitError) as caught:
        make({field: text})
    message = str(caught.value)
    assert "\n" not in message
    assert expected in message
    assert field.upper() in message
    assert text in message


def test_overlapping_ports_are_refused() -> None:
    with pytest.raises(KitError, match="overlap"):
        make({"port": "8080", "grpc_port": "8082"})


def test_record_is_plain_json_and_complete(tmp_path: Path) -> None:
    record = make({"run_dir": str(tmp_path)}).record()
    assert set(record) == {o.field for o in OPTIONS}
    assert all(isinstance(v, str | int | bool) for v in record.values())
