"""What the load tester asks a task: which files are its inputs, when an answer is right, and how
the answers of several modes are drawn side by side.

This is the base of every task's own hooks, which stand in ``repack/tasks/TASK/load_test.py`` as
``HOOKS``. It imports nothing heavy, because the tester's ``--help`` works before anything is
installed.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from handlers.errors import KitError

JSON = "application/json"
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""Names of the files that the tasks on pictures take."""
PICTURES_DRAWN = 3
PANEL_INCHES = 6.4
"""Width of one picture on a sheet."""

Inputs = Sequence[tuple[str, bytes]]
Answers = Mapping[str, Sequence[bytes]]


@dataclass(frozen=True)
class Usual:
    """What is asked where the flags do not say.

    Attributes:
        concurrency: requests in flight, a list with commas.
        requests: counted ones per concurrency.
        warmup: uncounted ones before; None where it depends on the concurrency.
        accept: media type of the answers.
        timeout: seconds per request.
    """

    concurrency: str = "1,4,16"
    requests: int = 200
    warmup: int | None = None
    accept: str = JSON
    timeout: float = 60.0


class LoadTest:
    """The hooks of a task, and those of any model that answers JSON.

    Attributes:
        suffixes: how the names of input files end, in lower case; none where any file will do.
        usual: what is asked by default.
        drawn: the most inputs that ``side_by_side`` draws; 0 where it draws nothing.
        usual_one: of the tasks that take such a file, the one it is where nothing names the task.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    usual: ClassVar[Usual] = Usual()
    drawn: ClassVar[int] = 0
    usual_one: ClassVar[bool] = False

    def takes(self, path: Path) -> bool:
        """Whether a file's name is that of an input."""
        return path.name.lower().endswith(self.suffixes)

    def what_is_wrong_with_input(self, data: bytes) -> str | None:
        """None for an input that can be read, else one line about it."""
        return None

    def what_is_wrong(self, accept: str, answer: bytes, request: bytes) -> str | None:
        """None for a right answer, else one line about what came.

        Args:
            accept: the media type that was asked for and has come.
            answer: the body of an answer with status 200.
            request: the body that it answers.
        """
        return what_is_wrong_with_json(answer) if accept == JSON else None

    def side_by_side(self, inputs: Inputs, answers: Answers, path: Path) -> list[str]:
        """Draws the first inputs and each mode's answers to ``path``, a PNG.

        Args:
            inputs: names and bytes.
            answers: for each mode, by its name, as many answers as are to be drawn.

        Returns:
            lines for the screen: how far the modes agree, and where the picture is.

        Raises:
            KitError: the answers hold nothing to draw, matplotlib is missing, or ``path`` cannot
                be written.
        """
        raise KitError("--vis 1: this model's answers have no picture; leave it out")


class PicturesLoadTest(LoadTest, ABC):
    """What the tasks on pictures share: a sheet with a row for each picture and a column a mode."""

    suffixes = PICTURES
    drawn = PICTURES_DRAWN
    holds: ClassVar[str]
    """The answer's field that is drawn, which is also its name on the screen."""

    def what_is_wrong_with_input(self, data: bytes) -> str | None:
        from handlers import images
        from handlers.errors import ItemError

        try:
            images.decode(data)
        except ItemError as e:
            return str(e)
        return None

    def side_by_side(self, inputs: Inputs, answers: Answers, path: Path) -> list[str]:
        parsed = {mode: [self._parse(mode, a) for a in given] for mode, given in answers.items()}
        from handlers import images

        modes = list(parsed)
        pictures = [images.decode(data) for _, data in inputs[: len(parsed[modes[0]])]]
        heights = [PANEL_INCHES * p.shape[0] / p.shape[1] + 0.5 for p in pictures]
        figure = new_figure(PANEL_INCHES * len(modes), sum(heights))
        panels = figure.subplots(
            len(pictures), len(modes), squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for row, picture in enumerate(pictures):
            for column, mode in enumerate(modes):
                answer = parsed[mode][row]
                panel = panels[row][column]
                panel.imshow(self.drawing(picture, answer))
                runtime = answer.get("runtime") or {}
                how = " ".join(str(runtime[k]) for k in ("name", "precision") if runtime.get(k))
                title = f"{mode[2:]}: {how}, {self.title(answer)}\n{inputs[row][0]}"
                panel.set_title(title, fontsize=11)
                panel.axis("off")
        save(figure, path)
        last = modes[-1]
        lines = [
            f"{mode} and {last}: {self.agreement(parsed[mode], parsed[last])}"
            for mode in modes[:-1]
        ]
        return [*lines, f"{self.holds}: {path}"]

    def drawing(self, picture: Any, answer: Mapping[str, Any]) -> Any:
        """The picture with what the answer says of it, ``[H, W, 3]`` of uint8."""
        return picture

    @abstractmethod
    def title(self, answer: Mapping[str, Any]) -> str:
        """The answer in a few words."""

    @abstractmethod
    def agreement(
        self, ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]
    ) -> str:
        """How far two modes' answers to the same pictures agree, in one line."""

    def _parse(self, mode: str, answer: bytes) -> dict[str, Any]:
        try:
            parsed = json.loads(answer)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict) or not isinstance(parsed.get(self.holds), list):
            raise KitError(f"--vis 1 draws {self.holds}, but the answer of {mode} holds none")
        return parsed


def what_is_wrong_with_json(answer: bytes) -> str | None:
    """None for JSON, else one line about what came."""
    try:
        json.loads(answer)
    except ValueError as e:
        return f"not JSON ({len(answer)} bytes, {str(e).splitlines()[0][:160]})"
    return None


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure, sizes in inches; raises ``KitError`` where it is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise KitError(f"--vis: {e}: pip install matplotlib") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> None:
    """Writes a figure as a PNG; raises ``KitError`` where it cannot."""
    try:
        figure.savefig(path, dpi=110, format="png")
    except OSError as e:
        raise KitError(f"--vis-out {path} cannot be written: {e.strerror}") from None
