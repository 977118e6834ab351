"""What is reported on one topic, apart from where it goes: a folder of files or a page."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure as Drawing
from PIL import Image
from tqdm import tqdm

from memorization.files.whole import make_folder, write_pieces
from memorization.report.theme import theme
from memorization.tables import Table, json_pieces

DPI = 110
LONG = 2.0  # seconds of writing from which on progress is shown


@dataclass(frozen=True)
class Figure:
    """A figure that is drawn when it is asked for.

    Attributes:
        name: of its file, without an ending.
        draw: makes it, in the style that is set.
        caption: stands under it on a page, which leaves out a figure without one.
    """

    name: str
    draw: Callable[[], Drawing]
    caption: str = ""

    def render(self, dark: bool = False) -> tuple[bytes, int]:
        """The figure as PNG, and its width in pixels; on a dark ground if asked."""
        with theme(dark):
            drawing = self.draw()
            buffer = io.BytesIO()
            drawing.savefig(buffer, format="png", dpi=DPI)
            width = round(drawing.get_figwidth() * DPI)
            plt.close(drawing)
        return buffer.getvalue(), width


@dataclass(frozen=True)
class StoredFigure:
    """A figure that was drawn before, the same on any ground.

    Attributes:
        name, caption: as of `Figure`.
        path: of its PNG.
    """

    name: str
    path: Path
    caption: str = ""

    def render(self, dark: bool = False) -> tuple[bytes, int]:
        """The file as it is, and the width that a figure of ours of its size in inches has, in pixels."""
        with Image.open(self.path) as picture:
            inches = picture.width / picture.info.get("dpi", (DPI, DPI))[0]
        return self.path.read_bytes(), round(inches * DPI)


@dataclass(frozen=True)
class Section:
    """Tables, figures and numbers of one topic.

    Attributes:
        topic: names the files.
        title, text: heading on a page, and what stands under it.
        tables, figures: in their order.
        results: the same numbers for programs, as JSON has them: sequences and dicts of measures with intervals.
        notes: what has to stand beside the numbers: intervals, preprocessing, which runs they are of.
        files: further text files, content by name.
    """

    topic: str
    title: str
    text: str
    tables: list[Table]
    figures: Sequence[Figure | StoredFigure] = field(default_factory=list)
    results: Any = None
    notes: list[str] = field(default_factory=list)
    files: Mapping[str, str] = field(default_factory=dict)

    def markdown(self) -> str:
        """Tables and notes as Markdown."""
        notes = "\n".join(f"- {note}" for note in self.notes if note)
        return "\n\n".join([*(table.markdown() for table in self.tables), notes])

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        return self.markdown()

    def save(self, folder: str | Path) -> list[Path]:
        """Write TOPIC.md, TOPIC.json, the further files and each figure as PNG.

        Returns:
            Paths of all files, in that order.

        Raises:
            InputError: if the folder cannot be written to.
        """
        folder = Path(folder)
        make_folder(folder, "--output")
        numbers = tqdm(json_pieces(self.results), desc=f"{self.topic}.json", unit=" lines", delay=LONG)
        texts: dict[str, Iterable[str]] = {f"{self.topic}.md": [self.markdown(), "\n"], f"{self.topic}.json": numbers}
        texts |= {name: [text] for name, text in self.files.items()}
        for name, pieces in texts.items():
            write_pieces(folder / name, pieces)
        for figure in self.figures:
            (folder / f"{figure.name}.png").write_bytes(figure.render()[0])
        return [*(folder / name for name in texts), *(folder / f"{figure.name}.png" for figure in self.figures)]
