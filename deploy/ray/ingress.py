"""What stands before the models on a Ray cluster: TorchServe's addresses, tokens, limits.

A request's model and version are looked up in a table, which an update replaces in one step.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from deploy.hosting.model import Answer, Request, error
from deploy.ray import metrics
from deploy.ray.binding import bind_to_node
from deploy.torchserve.guard.http import PARAMETERS as HEADER

JSON = "application/json"
PARAMETERS = HEADER.decode()
PASSED = ("content-type", "content-encoding", "accept", PARAMETERS)
"""Headers that a handler reads."""

ATTEMPTS = 2
"""An answer depends on its request alone: where a replica is lost, another one is asked."""

BUSY = {"Retry-After": "1"}


def asked_for(handle: Any, entry: Mapping[str, str]) -> Any:
    """The handle of an application, for the archive that an entry of the table names."""
    archive = entry.get("archive")
    return handle.options(multiplexed_model_id=archive) if archive else handle


class Ingress:
    """Takes requests and asks the models.

    Its ``user_config`` is ``{"models": {NAME: {"default": VERSION, "versions": {VERSION: {"app",
    "sha256"}}}}, "tokens": [SHA-256, ...], "max_body": bytes, "response_timeout": s}``. A version
    whose application has several archives has "archive", too: what it is asked for.

    Args:
        bound: handles of models that are of the same application, by their "app".
    """

    def __init__(self, **bound: Any):
        bind_to_node()
        self._bound = bound
        self._handles: dict[str, Any] = {}
        self._table: dict[str, Any] = {}
        self._metrics = metrics.RayMetrics()

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Takes another table, for the requests that come from now on."""
        apps = {v["app"] for m in config["models"].values() for v in m["versions"].values()}
        self._handles = {
            app: self._handles.get(app) or self._bound.get(app) or serve.get_app_handle(app)
            for app in apps
        }
        self._table = config

    def table(self) -> dict[str, Any]:
        """The table as it is now."""
        return self._table

    async def __call__(self, request: HttpRequest) -> Response:
        answer = await self._routed(request)
        headers = {**answer.headers, "content-type": answer.media_type}
        return Response(answer.body, answer.status, headers)

    async def _routed(self, request: HttpRequest) -> Answer:
        parts = request.url.path.strip("/").split("/")
        if parts == ["ping"]:
            return Answer(200, JSON, {}, b'{\n  "status": "Healthy"\n}\n')
        if not self._may_ask(request):
            said = "Token Authorization failed. Token either incorrect or not provided"
            refused = error(401, "InvalidKeyException", said)
            return Answer(401, JSON, {"WWW-Authenticate": "Bearer"}, refused.body)
        if parts == ["metrics"]:
            body = await asyncio.get_running_loop().run_in_executor(None, metrics.page)
            return Answer(200, "text/plain; version=0.0.4; charset=utf-8", {}, body)
        if parts[0] == "models" and len(parts) <= 3:
            return await self._described(parts[1:])
        if parts[0] == "predictions" and 2 <= len(parts) <= 3:
            return await self._predicted(request, *parts[1:])
        said = "Requested resource is not found, please refer to API document."
        return error(404, "ResourceNotFoundException", said)

    def _may_ask(self, request: HttpRequest) -> bool:
        tokens = self._table["tokens"]
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(token.strip().encode("latin-1", "replace")).hexdigest()
        known = [hmac.compare_digest(digest, t) for t in tokens]
        return not tokens or (kind.lower() == "bearer" and any(known))

    def _found(self, name: str, version: str) -> Any:
        """The handle that answers a model's version, or the ``Answer`` that there is none."""
        model = self._table["models"].get(name)
        if model is None:
            return error(404, "ModelNotFoundException", f"Model not found: {name}")
        served = model["versions"].get(version or model["default"])
        if served is None:
            said = f"Model version: {version} does not exist for model: {name}"
            return error(404, "ModelVersionNotFoundException", said)
        return asked_for(self._handles[served["app"]], served)

    async def _predicted(self, request: HttpRequest, name: str, version: str = "") -> Answer:
        if request.method not in ("POST", "PUT"):
            said = f"{request.method} came; expected POST or PUT"
            return error(405, "MethodNotAllowedException", said)
        query = request.url.query
        if query and PARAMETERS in request.headers:
            said = "a query string came beside X-Parameters; expected one"
            return error(400, "BadRequestException", said)
        most, body = self._table["max_body"], bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > most:
                said = f"a body of {len(body):,} bytes or more came; expected at most {most:,}"
                return error(413, "ContentTooLargeException", said)
        headers = {k: v for k, v in request.headers.items() if k in PASSED}
        headers |= {PARAMETERS: query} if query else {}
        answer = await self._asked(name, version, Request(bytes(body), headers))
        tags = [metrics.Tag("ModelName", name), metrics.Tag("Status", str(answer.status))]
        self._metrics.add_metric("ingress_answers", 1, "count", dimensions=tags)
        return answer

    async def _asked(self, name: str, version: str, request: Request) -> Answer:
        last = ""
        for _ in range(ATTEMPTS):
            handle = self._found(name, version)
            if isinstance(handle, Answer):
                return handle
            try:
                limit = self._table["response_timeout"]
                answer: Answer = await asyncio.wait_for(handle.answer.remote(request), limit)
                return answer
            except BackPressureError:
                said = f"model {name} has as many requests waiting as may (--queue); ask later"
                full = error(503, "ServiceUnavailableException", said)
                return Answer(503, JSON, BUSY, full.body)
            except asyncio.TimeoutError:
                said = f"model {name} has not answered in {limit} s (--response-timeout)"
                return error(500, "InternalServerException", said)
            except (RayActorError, RayServeException) as e:
                last = type(e).__name__
            except RayError as e:
                return error(500, "InternalServerException", f"{type(e).__name__}: see the log")
        lost = error(503, "InternalServerException", f"the replicas of {name} were lost ({last})")
        return Answer(503, JSON, BUSY, lost.body)

    async def _described(self, parts: list[str]) -> Answer:
        if not parts:
            names = [{"modelName": n, "modelUrl": f"{n}.mar"} for n in self._table["models"]]
            return Answer(200, JSON, {}, json.dumps({"models": names}).encode())
        handle = self._found(parts[0], "".join(parts[1:]))
        if isinstance(handle, Answer):
            return handle
        model = self._table["models"][parts[0]]
        version = "".join(parts[1:]) or model["default"]
        told = {
            "modelName": parts[0],
            "modelVersion": version,
            "default": version == model["default"],
            "sha256": model["versions"][version]["sha256"],
            "metadata": await handle.describe.remote(),
        }
        return Answer(200, JSON, {}, json.dumps([told]).encode())
