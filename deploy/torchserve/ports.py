"""Which ports are free, and who holds one that is not."""

from __future__ import annotations

import errno
import socket

import psutil

from deploy.torchserve.settings import Settings
from handlers.errors import KitError


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now.

    Raises:
        KitError: never, whatever listens there: no such address here, or not for this user.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except PermissionError as e:
            raise KitError(
                f"port {port} may not be used by this user: choose one above 1023"
            ) from e
        except OSError as e:
            if e.errno == errno.EADDRNOTAVAIL:
                raise KitError(f"{host} is no address of this machine: change HOST=") from e
            return False
    return True


def answers(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def holder(port: int) -> str:
    """The process that listens on the port, in words."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.Error:
        connections = []
    for connection in connections:
        at = tuple(connection.laddr)
        listens = connection.status == psutil.CONN_LISTEN and at[1:2] == (port,)
        if listens and connection.pid is not None:
            return describe(connection.pid)
    return "a process of another user"


def describe(pid: int) -> str:
    """A process in words: name, id and the start of its command line."""
    try:
        process = psutil.Process(pid)
        command = " ".join(process.cmdline())
    except psutil.Error:
        return f"process {pid}"
    short = command if len(command) <= 80 else command[:77] + "..."
    return f"{process.name()} (process {pid}: {short})"


def require_free(settings: Settings) -> None:
    """Checks every port that the server is about to take.

    Raises:
        KitError: a port is taken; names it, its holder and the setting to change.
    """
    for purpose, (host, port) in settings.ports.items():
        if not is_free(host, port):
            setting = "GRPC_PORT" if purpose.startswith("gRPC") else "PORT"
            setting = "V2_GRPC_PORT" if port == settings.v2_grpc_port else setting
            raise KitError(
                f"port {port} ({purpose}) is taken by {holder(port)}:"
                f" stop it, or choose another with {setting}="
            )
