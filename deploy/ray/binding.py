"""Where a replica's own gRPC server listens: on its node's address, not on every one."""

from __future__ import annotations

from typing import Any

import ray
from ray.serve._private import replica


def bind_to_node() -> None:
    """To be called while a replica is made, before Serve opens the port by which other replicas
    ask it: Serve 2.60 opens that on all interfaces, also where the cluster is on loopback, and
    whoever reaches it can run code there."""
    original = replica.add_port_to_grpc_server
    address = ray.util.get_node_ip_address()
    host = f"[{address}]" if ":" in address else address

    def bound(server: Any, asked: str) -> Any:
        return original(server, asked.replace("[::]", host))

    replica.add_port_to_grpc_server = bound
