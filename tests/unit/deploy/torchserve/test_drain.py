from __future__ import annotations

import socket
import subprocess
import sys
import time

import pytest

from deploy.torchserve import drain

TICK_S = 0.05


@pytest.fixture(autouse=True)
def kernel_answers() -> None:
    try:
        list(drain.connections(1))
    except OSError:
        pytest.skip("the kernel does not list connections here")


def test_connection_is_busy_from_request_to_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            server, _ = listener.accept()
            with server:
                assert drain.busy_connections(port) == 0
                time.sleep(TICK_S)
                client.sendall(b"question")
                assert drain.busy_connections(port) == 1
                server.recv(100)
                assert drain.busy_connections(port) == 1
                time.sleep(TICK_S)
                server.sendall(b"answer")
                client.recv(100)
                assert drain.busy_connections(port) == 0
                time.sleep(TICK_S)
                client.sendall(b"next question")
                server.recv(100)
                assert drain.busy_connections(port) == 1


def test_listening_stops_and_open_connections_stay() -> None:
    code = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1],"
        " flush=True); c, _ = s.accept(); print(1, flush=True); c.sendall(c.recv(9)); c.recv(9)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)) as client:
            other.stdout.readline()
            if not drain.stop_listening(other.pid, port):
                other.kill()
                pytest.skip("another process's sockets cannot be reached here")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
            client.sendall(b"still")
            assert client.recv(9) == b"still"
