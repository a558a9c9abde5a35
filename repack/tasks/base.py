"""What a task is: how a model of it is asked, judged and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repack.model import Arrays, Model
    from repack.options import Options
    from repack.samples import Sample
    from repack.sources.source import Source


@dataclass
class Comparison:
    """The task's own judgement of a converted model.

    Attributes:
        figures: its metric, as the passport records it.
        failures: one line for each limit that is not kept.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Task:
    """What a model does. One object stands in the table ``TASKS``.

    What it does lies in the modules of its folder, which are imported when they are needed:
    ``model.make``, ``samples.read`` and ``.example``, ``compare.compare``, and ``report``. A task
    of another kind overrides the methods.

    Attributes:
        name: as the passport has it, and the value of ``--task``.
        title: what such a model is called in a sentence: "a detector".
        handler: "module:Class" of what serves it.
        folder: the package with its modules; "" for ``repack.tasks.NAME``.
        metric: has a metric of its own; where not, outputs alone are compared.
        names_causes: the metric is asked also where outputs already differ, because it says why.
        batches: the handler answers several requests by one call of the model.
        labelled: ``--labels`` names its classes.
        takes_pictures: a request is a JPEG, PNG, WebP or BMP.
        one_at_a_time: a request is a whole piece of work: several at once gain nothing.
        settles: the original's answers decide some of its settings (``nesting.settled``).
        server: settings of a server whose store holds such an archive, as fields of
            ``deploy.torchserve.settings.Settings``.
    """

    name: str
    title: str
    handler: str
    folder: str = ""
    metric: bool = True
    names_causes: bool = False
    batches: bool = True
    labelled: bool = False
    takes_pictures: bool = False
    one_at_a_time: bool = False
    settles: bool = False
    server: Mapping[str, str] = field(default_factory=dict)

    def part(self, module: str) -> Any:
        """One of the modules in the task's folder."""
        return import_module(f"{self.package}.{module}")

    @property
    def package(self) -> str:
        return self.folder or f"repack.tasks.{self.name}"

    def model(self, source: Source, options: Options) -> Model:
        """The source as a model of this task.

        Raises:
            KitError: it is none, or an option does not fit it.
        """
        made: Model = self.part("model").make(source, options)
        return made

    def read_samples(self, folder: Path, model: Model, flag: str) -> list[Sample]:
        """The user's inputs in a folder that exists.

        Args:
            flag: that named the folder, for messages.

        Raises:
            KitError: nothing usable there, or a file that cannot be read.
        """
        found: list[Sample] = self.part("samples").read(folder, model, flag)
        return found

    def example(self, model: Model, samples: Sequence[Sample], folder: Path) -> Path:
        """A file that the finished archive must answer; made in ``folder`` where there is none."""
        found: Path = self.part("samples").example(model, samples, folder)
        return found

    def settled(self, model: Model, answers: Sequence[Arrays]) -> Model:
        """The model with the settings that depend on the original's answers to the gate's inputs;
        none where there is no original."""
        if not self.settles:
            return model
        found: Model = self.part("nesting").settled(model, answers)
        return found

    def compare(
        self,
        model: Model,
        asked: str,
        originals: Sequence[Arrays],
        converted: Sequence[Arrays],
        samples: Sequence[Sample],
    ) -> Comparison:
        """The task's metric over the gate's inputs, the last of which are the samples.

        Args:
            asked: the precision, a key of ``repack.tolerances.TOLERANCES``.
            originals, converted: all outputs of both, per input.
        """
        compare = self.part("compare").compare
        found: Comparison = compare(model, asked, originals, converted, samples)
        return found

    def answers(self) -> Any:
        """Its requests' and answers' media types with their schemas (``repack.tasks.schemas``);
        None for a task that does not say them."""
        try:
            return self.part("answers")
        except ModuleNotFoundError as e:
            if not f"{self.package}.answers.".startswith(f"{e.name}."):
                raise  # it is there, and lacks something
            return None

    def report(self) -> Any:
        """What the task says in the report: a module with ``limits``, ``unchecked``, ``headline``
        and ``pictures``; that of raw tensors where it has none."""
        try:
            return self.part("report")
        except ModuleNotFoundError:
            return import_module("repack.tasks.tensors.report")
