"""A store of archives as one Serve application, for a RayService: ``deploy.ray.kube:app``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from deploy.ray import applications
from deploy.ray.settings import parse
from deploy.torchserve.archives import survey
from handlers.errors import KitError

logger = logging.getLogger("ray.serve")


def app(args: Mapping[str, Any]) -> Any:
    """The ingress and every archive of the store that passes its check.

    Args:
        args: flags of ``python -m deploy.ray`` without dashes: ``{"model-store": "/models"}``.

    Raises:
        KitError: a value is not what its flag expects, or no archive can be served.
    """
    settings = parse([f"--{flag}={value}" for flag, value in args.items()])
    archives, refused = survey(settings.model_store)
    for line in refused:
        logger.error("REFUSED %s", line)
    if not archives:
        raise KitError(f"no archive in {settings.model_store} can be served")
    table = applications.new_table(settings)
    bound = {}
    for archive in archives:
        app = applications.entry(archive, settings)["app"]
        if app != applications.SHARED:
            bound[app] = applications.model(archive, settings, app)
        elif app not in bound:
            bound[app] = applications.shared(settings, app)
        table = applications.with_model(table, archive, settings, keep=True)
    return applications.ingress(table, settings, bound)
