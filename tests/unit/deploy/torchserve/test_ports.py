from __future__ import annotations

import os
import socket

import pytest

from deploy.torchserve import ports
from deploy.torchserve.settings import make
from handlers.errors import KitError


def test_taken_port_is_named_with_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        assert not ports.is_free("127.0.0.1", port)
        settings = make({"port": str(port), "grpc_port": "1" if port > 10 else "60000"})
        with pytest.raises(KitError) as caught:
            ports.require_free(settings)
    message = str(caught.value)
    assert f"port {port} (predictions) is taken by" in message
    assert f"process {os.getpid()}" in message
    assert "PORT=" in message
    assert ports.is_free("127.0.0.1", port)


def test_address_of_another_machine_is_not_a_taken_port() -> None:
    with pytest.raises(KitError, match=r"192\.0\.2\.7 is no address of this machine"):
        ports.require_free(make({"host": "192.0.2.7"}))
