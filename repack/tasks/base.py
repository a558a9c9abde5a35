"""What a task is: how a model of it is asked, judged and shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from handlers.runtimes.base import Runtime
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
class Note:
    """What nobody compared, for the person who decides on the archive.

    Attributes:
        serious: a decision needs it.
    """

    what: str
    why: str
    serious: bool = False


class Task(ABC):
    """What a model does. One object stands in the table ``TASKS``; heavy imports come late.

    Attributes:
        name: as the passport has it, and the value of ``--task``.
        title: what such a model is called in a sentence: "a detector".
        handler: "module:Class" of what serves it.
        labelled: ``--labels`` names its classes.
        takes_pictures: a request is a JPEG, PNG, WebP or BMP.
        server: settings of a server whose store holds such an archive (``run.sh``'s flags, as
            fields of ``deploy.torchserve.settings.Settings``).
        names_causes: ``compare`` also runs where outputs already differ, because it says why.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    handler: ClassVar[str]
    labelled: ClassVar[bool] = False
    names_causes: ClassVar[bool] = False
    takes_pictures: ClassVar[bool] = False
    server: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def model(self, source: Source, options: Options) -> Model:
        """The source as a model of this task.

        Raises:
            KitError: it is none, or an option does not fit it.
        """

    @abstractmethod
    def read_samples(self, folder: Path, model: Model, flag: str) -> list[Sample]:
        """The user's inputs in a folder that exists.

        Args:
            flag: that named the folder, for messages.

        Raises:
            KitError: nothing usable there, or a file that cannot be read.
        """

    @abstractmethod
    def example(self, model: Model, samples: Sequence[Sample], folder: Path) -> Path:
        """A file that the finished archive must answer; made in ``folder`` where there is none."""

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
        return Comparison()

    def limits(self, precision: str) -> dict[str, float]:
        """The metric's limits for a precision, by the names of its figures."""
        return {}

    def unchecked(self, figures: dict[str, Any], samples: int) -> list[Note]:
        """What ``compare`` could not tell.

        Args:
            figures: what it gave.
            samples: how many samples there were.
        """
        return []

    def pictures(
        self,
        model: Model,
        runtime: Runtime,
        originals: Sequence[Arrays],
        samples: Sequence[Sample],
    ) -> dict[str, Any]:
        """The samples on which both differ most, drawn; ``{"none": reason}`` where it cannot be.

        Args:
            runtime: the chosen artefact, activated.
            originals: the original's answers to the samples.
        """
        return {"none": f"answers of the task {self.name} have no pictures"}
