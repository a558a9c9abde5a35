"""What can be set when serving on Ray."""

from __future__ import annotations

import argparse
import hashlib
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.torchserve.settings import ROOT, address, folder, is_loopback, whole
from handlers.errors import KitError


@dataclass(frozen=True)
class Settings:
    """Checked settings: times in seconds but for ``max_batch_delay`` (ms), sizes in MiB.

    Attributes:
        action: "serve", "update", "status" or "stop".
        cluster: address of a running cluster, "auto" for this machine's; "" for one of its own.
        archive: the new archive of an update.
        replicas: least and most processes of each model, or of all that share them.
        share: models that each process may hold, of all that are served; None where each model has
            processes of its own.
        gpu: share of a GPU for each replica; 0 for none.
        batch_size: None for the largest that the archive was built for, else 1.
    """

    action: str
    cluster: str
    archive: Path
    sample: Path | None
    keep: bool
    model_store: Path
    host: str
    port: int
    replicas: tuple[int, int]
    share: int | None
    threads: int
    gpu: float
    batch_size: int | None
    max_batch_delay: int
    queue: int
    max_request_mb: int
    response_timeout: int
    startup_timeout: int
    drain_timeout: int
    token_file: Path | None
    without_tokens: bool

    def token_hashes(self) -> list[str]:
        """SHA-256 of each token that may ask; none where whoever reaches the port may.

        Raises:
            KitError: the token file is there and holds none.
        """
        if self.token_file is None:
            return []
        if not self.token_file.exists():
            self.token_file.touch(mode=0o600, exist_ok=False)
            self.token_file.write_text(secrets.token_urlsafe(32) + "\n", encoding="ascii")
        tokens = self.token_file.read_text(encoding="utf-8").split()
        if not tokens:
            raise KitError(f"--token-file {self.token_file}: it holds no token")
        return [hashlib.sha256(token.encode()).hexdigest() for token in tokens]


def replicas(text: str) -> tuple[int, int]:
    """ "2" for a fixed number, "1:4" for as many as the load asks for."""
    found = re.fullmatch(r"(\d{1,4})(?::(\d{1,4}))?", text)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= low <= high:
        raise ValueError(f"expected a number from 1, or two such as 1:4, got {text!r}")
    return low, high


def fraction(text: str) -> float:
    """A share of a GPU, or whole GPUs."""
    if not re.fullmatch(r"\d{1,2}(\.\d{1,3})?", text) or (float(text) > 1 and float(text) % 1):
        raise ValueError(f"expected a share such as 0.25, or a whole number, got {text!r}")
    return float(text)


OPTIONS: tuple[tuple[str, Callable[[str], Any], str, str], ...] = (
    ("model-store", folder, str(ROOT / "model_store"), "folder with the archives to serve"),
    ("host", address, "127.0.0.1", "address for requests"),
    ("port", whole(1, 65535), "8080", "port for requests, on every node"),
    ("replicas", replicas, "1:4", "processes of each model: a number, or LEAST:MOST by the load"),
    ("share", whole(1, 1000), "", "all models share the replicas, each of which holds so many"),
    ("threads", whole(1, 256), "1", "CPU cores and threads of each replica"),
    ("gpu", fraction, "0", "GPUs of each replica: 0.25 lets four share one"),
    ("batch-size", whole(1, 1024), "", "requests answered together (default: the archive's)"),
    ("max-batch-delay", whole(0, 60000), "5", "ms that a replica waits for a batch to fill"),
    ("queue", whole(1, 1000000), "100", "waiting requests per model before 503"),
    ("max-request-mb", whole(1, 1024), "256", "MiB of a request or answer"),
    ("response-timeout", whole(1, 86400), "120", "s before a silent replica is replaced"),
    ("startup-timeout", whole(1, 86400), "300", "s for a model to load"),
    ("drain-timeout", whole(0, 3600), "30", "s that an old replica has for requests in flight"),
    ("token-file", folder, "", "callers need one of its tokens; made with one if it is not there"),
)


def parser() -> argparse.ArgumentParser:
    """The command line of ``python -m deploy.ray``."""
    found = argparse.ArgumentParser(
        prog="python -m deploy.ray", description=__doc__.splitlines()[0]
    )
    action = found.add_mutually_exclusive_group()
    action.add_argument(
        "--update",
        metavar="ARCHIVE",
        help="load a new archive beside the old one"
        " of its name, ask it a sample, and only then let it answer",
    )
    action.add_argument("--status", action="store_true", help="show what is served and exit")
    action.add_argument("--stop", action="store_true", help="end all models of the cluster")
    found.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="a running Ray cluster,"
        " such as HOST:6379, or auto for this machine's; without it, one of its own"
        " on this machine, until Ctrl-C",
    )
    found.add_argument(
        "--sample",
        type=Path,
        metavar="FILE",
        help="with --update: a request that"
        " the new archive must answer (default: a sample picture)",
    )
    found.add_argument(
        "--keep",
        action="store_true",
        help="with --update: the old version stays at /predictions/NAME/VERSION",
    )
    found.add_argument(
        "--without-tokens",
        action="store_true",
        help="beyond loopback, whoever reaches HOST may ask",
    )
    for name, _, default, text in OPTIONS:
        shown = default.removeprefix(f"{ROOT}/")
        shown = f" (default: {shown})" if default else ""
        metavar = name.upper().replace("-", "_")
        found.add_argument(f"--{name}", metavar=metavar, help=text + shown)
    return found


def parse(argv: Sequence[str]) -> Settings:
    """The settings of a command line.

    Raises:
        KitError: a value is not what its flag expects.
        SystemExit: an unknown flag (2), or ``--help`` (0).
    """
    given = vars(parser().parse_args(argv))
    values: dict[str, Any] = {}
    for name, read, default, _ in OPTIONS:
        text = given[name.replace("-", "_")] or default
        try:
            values[name.replace("-", "_")] = read(text) if text else None
        except ValueError as e:
            raise KitError(f"--{name}: {e}") from None
    actions = [a for a in ("update", "status", "stop") if given[a]]
    settings = Settings(
        action=actions[0] if actions else "serve",
        cluster=given["cluster"] or "",
        archive=Path(given["update"] or ""),
        sample=given["sample"],
        keep=given["keep"],
        without_tokens=given["without_tokens"],
        **values,
    )
    if actions and not settings.cluster:
        raise KitError(f"--{actions[0]} needs --cluster ADDRESS, or --cluster auto on its machine")
    if settings.action != "update" and (settings.sample or settings.keep):
        raise KitError("--sample and --keep belong to --update")
    protected = settings.token_file is not None or settings.without_tokens
    if settings.action == "serve" and not protected and not is_loopback(settings.host):
        raise KitError(
            f"--host {settings.host} is open beyond this machine: give --token-file FILE, or "
            "--without-tokens if whoever reaches it may ask"
        )
    return settings
