"""Serves in the foreground, and stops cleanly on Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal

import psutil

from deploy.torchserve import server as servers
from deploy.torchserve import state
from deploy.torchserve.answer import say
from deploy.torchserve.server import Server
from handlers.errors import KitError

LOOK_S = 10
"""Seconds between two looks at the guard."""


def end_on_sigterm() -> None:
    """Turns SIGTERM into SystemExit(143), so that what was begun is ended on the way out."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, leave)


def watch(server: Server) -> int:
    """Serves until Ctrl-C (130) or SIGTERM (0); 1 where the server ended by itself."""
    say("server", "serving until Ctrl-C")
    try:
        while (process := server.state.process()) is not None:
            try:
                process.wait(LOOK_S)
            except psutil.TimeoutExpired:
                if server.state.guards():
                    continue
                if state.read(server.settings.run_dir) is not None:
                    why = server.last_words("guard.log")
                    servers.stop(server, drain_s=0)
                    raise KitError(f"the server's guard ended by itself: {why}") from None
    except (KeyboardInterrupt, SystemExit) as e:
        say("server", "stopping: requests in flight finish; Ctrl-C again ends it at once")
        try:
            servers.stop(server)
        except KeyboardInterrupt:
            servers.stop(server, drain_s=0)
        say("server", "stopped")
        return 130 if isinstance(e, KeyboardInterrupt) else 0
    if state.read(server.settings.run_dir) is None:
        say("server", "stopped by run.sh --stop")
        return 0
    why = server.last_words()
    servers.clean_up(server.settings)
    raise KitError(f"the server ended by itself: {why}")
