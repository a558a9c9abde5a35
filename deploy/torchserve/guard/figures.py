"""TorchServe's page of figures, with what TorchServe cannot know of: what the guard refused, and
the versions by which clients ask."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace

from deploy.kserve.models import Reply
from deploy.kserve.rest import head_of
from deploy.kserve.tensors import Mistake
from deploy.torchserve.guard import asking, limits
from deploy.torchserve.guard.client import CLOSE
from deploy.torchserve.guard.counts import Counts
from deploy.torchserve.guard.house import House
from deploy.torchserve.guard.http import END, MAX_HEAD, Head, Refusal, read_head

NAME = "guard_refusals"
SAMPLE = re.compile(r'(\w+\{.*?model_name="([^"]*)".*?model_version=")([^"]*)(".*?\}) (\S+)')

LONGEST_S = 20
"""Seconds for a page to be made, and for it to be taken."""


async def serve(house: House) -> asyncio.Server:
    """Listens where the figures are asked for, until it is closed."""

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = await asyncio.wait_for(reader.readuntil(END), limits.HEAD_S)
            reply = await asyncio.wait_for(page(house, read_head(asked[: -len(END)])), LONGEST_S)
            writer.write(head_of(reply) + CLOSE + reply.body)
            await asyncio.wait_for(writer.drain(), LONGEST_S)
        except Refusal as e:
            writer.write(e.answer())
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.TimeoutError):
            pass  # it left, or is no client of ours
        finally:
            writer.close()

    return await asyncio.start_server(answered, *house.given.metrics, limit=MAX_HEAD)


async def page(house: House, head: Head) -> Reply:
    """What TorchServe answers, and behind its figures the guard's.

    Raises:
        Refusal: TorchServe cannot be asked.
    """
    behind = House(replace(house.given, socket=house.given.metrics_socket), 1)
    lines = b"%s %s HTTP/1.1" % (head.method, head.target), b"host: localhost"
    try:
        reply = await asking.Question(behind, behind.other, b"\r\n".join(lines) + END, b"").answer()
    except Mistake as e:
        raise Refusal(e.status, str(e), e.reason or "") from None
    finally:
        for connection in tuple(behind.pool.idle):
            connection.abort()
    if reply.status != 200 or head.path != [b"metrics"]:
        return reply
    shown = by_version(reply.body.decode(), house.given.versions) + refused(house.counts)
    return Reply(200, reply.headers, shown.encode())


def by_version(text: str, served: Mapping[str, Mapping[str, str]]) -> str:
    """The page with versions as they are asked: an update gives one a name of TorchServe's own.

    Of samples that are the same then (a version that replaces one of its own number), the sum.
    """
    names = {(model, at): v for model, known in served.items() for v, at in known.items()}
    values: dict[str, float | None] = {}
    for line in text.splitlines():
        if sample := SAMPLE.fullmatch(line):
            key = f"{sample[1]}{names.get((sample[2], sample[3]), sample[3])}{sample[4]}"
            values[key] = (values.get(key) or 0.0) + float(sample[5])
        else:
            values[line] = None
    return "".join(f"{k}\n" if v is None else f"{k} {v}\n" for k, v in values.items())


def refused(counts: Counts) -> str:
    """The guard's own figures, in Prometheus' text format; those that are 0, too."""
    rows = [f'{NAME}{{Reason="{reason}"}} {count}' for reason, count in counts.total().items()]
    about = [f"# HELP {NAME} Requests that the guard refused", f"# TYPE {NAME} counter"]
    return "".join(f"{line}\n" for line in (*about, *rows))
