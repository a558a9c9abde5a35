"""Lets requests in flight finish before the server is told to end.

TorchServe closes its HTTP connections at once when it ends, answered or not (gRPC calls it lets
finish). So the kit first stops new connections, then waits until every open one has been answered.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing

import psutil

from deploy.torchserve.client import Client

PIDFD_GETFD = 438
ESTABLISHED, CLOSE_WAIT = 1, 8
SAME_TICK_MS = 10_000
"""The kernel counts in ticks of some ms. Where the last byte in and the last byte out fell into one
(a short answer, but also a body that followed on "100 Continue"), the connection counts as busy for
this long."""

REQUEST = struct.Struct("=IHHII BBBBI HH32s I8s")
MESSAGE = struct.Struct("=BBBB HH32s I8s 5I")
HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")


def drain(client: Client, pid: int, wait_s: float) -> bool:
    """Refuses new connections where the system lets it, and waits for those in flight.

    Args:
        pid: the front end's process id.
        wait_s: longest wait, in seconds.

    Returns:
        Whether nothing was in flight at the end.
    """
    port = client.settings.port
    end = time.monotonic() + wait_s
    stop_listening(pid, port)
    while busy_connections(port) or waiting(client):
        if time.monotonic() >= end:
            return False
        time.sleep(0.05)
    return True


def waiting(client: Client) -> int:
    """Requests in the named model's queue; 0 where the server does not say."""
    described = client.describe(client.settings.name) or {}
    return int(described.get("jobQueueStatus", {}).get("pendingRequests", 0))


def stop_listening(pid: int, port: int) -> bool:
    """Shuts the listening socket of another process of this user; open connections stay.

    Returns:
        Whether it was possible: containers and hardened systems may forbid it.
    """
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return False
    library = ctypes.CDLL(None, use_errno=True)
    done = False
    try:
        for connection in psutil.Process(pid).net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or tuple(connection.laddr)[1:2] != (port,):
                continue
            copy = library.syscall(PIDFD_GETFD, handle, connection.fd, 0)
            if copy >= 0:
                with closing(socket.socket(fileno=copy)) as listener:
                    listener.shutdown(socket.SHUT_RD)
                    done = True
    except (OSError, psutil.Error):
        return False
    finally:
        os.close(handle)
    return done


def busy_connections(port: int) -> int:
    """Open connections to a local port that wait for an answer; 0 where the kernel does not say."""
    try:
        return sum(1 for info in connections(port) if is_busy(info))
    except OSError:
        return 0


def is_busy(info: tuple[int, int, bytes]) -> bool:
    """Whether a connection's last bytes went in rather than out.

    Args:
        info: bytes received and not read, bytes not sent, and the kernel's ``struct tcp_info``.
    """
    unread, unsent, tcp = info
    sent_ago, _, received_ago = struct.unpack_from("=III", tcp, 44)
    (received,) = struct.unpack_from("=Q", tcp, 128)
    if unread or unsent:
        return True
    if received == 0 or received_ago > sent_ago:
        return False
    return bool(received_ago < sent_ago or received_ago < SAME_TICK_MS)


def connections(port: int) -> Iterator[tuple[int, int, bytes]]:
    """Asks the kernel for the open IPv4 TCP connections of a local port.

    Raises:
        OSError: it does not answer such questions here.
    """
    states = 1 << ESTABLISHED | 1 << CLOSE_WAIT
    question = REQUEST.pack(
        REQUEST.size, 20, 0x301, 1, 0,  # SOCK_DIAG_BY_FAMILY, request and dump
        socket.AF_INET, socket.IPPROTO_TCP, 2, 0, states,  # with INET_DIAG_INFO
        socket.htons(port), 0, bytes(32), 0, b"\xff" * 8,
    )  # fmt: skip
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as kernel:  # NETLINK_SOCK_DIAG
        kernel.settimeout(2)
        kernel.send(question)
        while True:
            data = kernel.recv(1 << 18)
            while data:
                length, kind, *_ = HEADER.unpack_from(data)
                if kind in (2, 3):  # error, done
                    return
                yield from connection(data[HEADER.size : length], port)
                data = data[(length + 3) & ~3 :]


def connection(message: bytes, port: int) -> Iterator[tuple[int, int, bytes]]:
    """One connection out of a message of the kernel, if it is one of the port's."""
    fields = MESSAGE.unpack_from(message)
    if socket.ntohs(fields[4]) != port:
        return
    unread, unsent = fields[10:12]
    rest = message[MESSAGE.size :]
    while len(rest) >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(rest)
        if kind == 2 and length >= ATTRIBUTE.size + 136:
            yield unread, unsent, rest[ATTRIBUTE.size : length]
        rest = rest[max(4, (length + 3) & ~3) :]
