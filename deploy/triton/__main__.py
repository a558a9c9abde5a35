"""Writes a model repository for Triton from an archive: python -m deploy.triton ARCHIVE."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.torchserve.answer import say
from deploy.torchserve.settings import ROOT, cores, model_name, whole
from deploy.triton import repository
from deploy.triton.config import Serving
from handlers.artefact import Artefact, DeviceOptions
from handlers.errors import KitError
from handlers.passport import Passport
from repack import archive
from repack.backends import BACKENDS
from repack.tasks import TASKS

PICTURE = ROOT / "examples" / "pictures" / "shapes01.jpg"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="python -m deploy.triton",
        description="Write a model repository for Triton's Python backend from a verified archive.",
    )
    add = found.add_argument
    add("archive", type=Path, metavar="ARCHIVE", help="a .mar file of this kit")
    add("--repository", type=Path, required=True, metavar="DIR", help="folder of Triton's models")
    add("--name", type=model_name, help="the model's name in Triton (default: the archive's)")
    add(
        "--instances",
        type=whole(1, 256),
        metavar="N",
        help="instances, on a GPU machine of each GPU (default: one per core, at most 4)",
    )
    add(
        "--threads",
        type=whole(1, 256),
        metavar="N",
        help="threads of an instance (default: cores over instances)",
    )
    add(
        "--batch-size",
        type=whole(1, 1024),
        metavar="N",
        help="most requests answered together (default: the largest built, else 1)",
    )
    add(
        "--max-batch-delay",
        type=whole(0, 60000),
        default=5,
        metavar="MS",
        help="ms that an instance waits for a batch to fill (default: 5)",
    )
    add(
        "--queue",
        type=whole(1, 1000000),
        default=100,
        metavar="N",
        help="waiting requests before further ones are refused (default: 100)",
    )
    add("--sample", type=Path, metavar="FILE",
        help="input that is answered before the model is ready (default: the kit's own picture"
        " where it takes pictures)")  # fmt: skip
    add(
        "--native",
        action="store_true",
        help="the network in a backend of Triton's own, as a second model; all else in Python",
    )
    return found


def accelerated(passport: Passport) -> Artefact:
    """What the archive is packed for.

    Raises:
        KitError: it is packed for nothing.
    """
    if "accelerated" not in passport.artefacts:
        raise KitError(
            f"{passport.name}: the archive has no accelerated artefact: repack its model"
        )
    return passport.artefacts["accelerated"]


def serving(given: argparse.Namespace, passport: Passport) -> Serving:
    """How the archive is served where the flags do not say.

    Raises:
        KitError: a batch for a model that answers requests one at a time.
    """
    artefact = accelerated(passport)
    options = artefact.options
    batches = options.batches if isinstance(options, DeviceOptions) else ()
    profiles = [shapes[2][0] for p in getattr(options, "engines", ()) for shapes in p.values()]
    task = TASKS.get(passport.task)
    alone = task is not None and (task.one_at_a_time or not task.batches)
    if alone and (given.batch_size or 1) > 1:
        raise KitError(
            f"--batch-size {given.batch_size}: {passport.name} answers one request at a time"
        )
    gpu = BACKENDS[artefact.runtime].device == "gpu" if artefact.runtime in BACKENDS else False
    instances = given.instances or (1 if gpu else min(cores(), 4))
    batch = given.batch_size or (1 if alone else max(batches or profiles, default=1))
    return Serving(
        gpu=gpu,
        instances=instances,
        threads=given.threads or max(1, cores() // instances),
        batch=batch,
        batches=tuple(b for b in batches if 1 < b <= batch),
        delay_us=1000 * given.max_batch_delay,
        queue=given.queue,
    )


def run(given: argparse.Namespace) -> None:
    """Writes the repository and says what is in it; raises ``KitError``."""
    passport = archive.verify(given.archive)
    if foreign := archive.foreign_code(passport):
        say("code", f"{given.archive.name}: not this kit's ({foreign}); an archive is code")
    name = given.name or passport.name
    plan = serving(given, passport)
    task = TASKS.get(passport.task)
    sample = given.sample or (PICTURE if task is not None and task.takes_pictures else None)
    if given.native:
        if given.sample:
            raise KitError("--sample with --native: the network is asked zeros; leave one out")
        folder = repository.write_native(given.archive, given.repository, name, plan)
        sample = None
    else:
        folder = repository.write(given.archive, given.repository, name, plan, sample)
    backend = BACKENDS.get(accelerated(passport).runtime)
    packages = backend.packages if backend and not given.native else ()
    needs = (f"{p} {passport.versions.get(p, '')}".strip() for p in packages)
    where = "of each GPU" if plan.gpu else "on the CPU"
    size = f"{plan.instances} x {plan.threads} threads {where}, batch {plan.batch}"
    say("written", f"{folder}: {size}")
    if given.native:
        say("network", f"{folder}_network, which Triton's own backend runs: tried with no Triton")
    else:
        say("warm-up", str(sample) if sample else "none: give an input with --sample")
    say("packages", f"in Triton's own Python: {', '.join(('numpy', *needs))}")
    say("next", f"tritonserver --model-repository {given.repository}")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 for a mistake in one line."""
    given = parser().parse_args(argv)
    try:
        run(given)
    except KitError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
