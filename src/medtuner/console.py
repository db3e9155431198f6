"""What a person sees on the terminal: progress, tables and coloured mentions, within 80 columns.

console = Console()
with console.training(num_steps=420) as observer:      # a bar on a terminal, plain lines in a log
    observer(event)
console.show_scores(scores)
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import rich.console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from medtuner.documents import Document
from medtuner.semantic_network import display_name
from medtuner.training import Event

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red", "bright_cyan", "bright_magenta", "bright_green")
_PLAIN_LINES = 20  # progress lines of a run whose output is a file


class Console:
    """The terminal of one process; silent on ranks other than the first."""

    def __init__(self, *, is_main: bool = True) -> None:
        self._out = rich.console.Console(quiet=not is_main, highlight=False, soft_wrap=False)

    def say(self, text: str) -> None:
        """Print one plain message; square brackets in it mean themselves."""
        self._out.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print a message that the user should not miss."""
        self._out.print(Text("warning: ", style="bold yellow").append(text, style="default"))

    @contextmanager
    def training(self, *, num_steps: int, start: int) -> Iterator[Callable[[Event], None]]:
        """Show progress while the context is open; yields the function that takes the loop's events."""
        if not self._out.is_terminal:
            yield _PlainProgress(self).show
            return
        columns: list[ProgressColumn] = [
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("loss {task.fields[loss]}  {task.fields[speed]} tokens/s  left"),
            TimeRemainingColumn(),
        ]
        with Progress(*columns, console=self._out) as progress:
            task = progress.add_task("train", total=num_steps, completed=start, loss="-", speed="-")

            def show(event: Event) -> None:
                if event.dev is not None:
                    progress.console.print(_dev_line(event))
                    return
                progress.update(
                    task, completed=event.step, loss=f"{event.loss:.3f}", speed=f"{event.tokens_per_s:,.0f}"
                )

            yield show

    def show_scores(self, scores: Mapping[str, Any], *, title: str) -> None:
        """Print one row a type, then the averages, in percent."""
        table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="bold")
        table.add_column("type", no_wrap=True, overflow="ellipsis", max_width=34)
        for name in ("P", "R", "F1", "95%", "gold"):
            table.add_column(name, justify="right", no_wrap=True)
        per_type = scores["strict"]["per_type"]
        for name in sorted(per_type, key=lambda name: -per_type[name]["support"]):
            note = "" if per_type[name].get("trained", True) else "untrained: "
            label = name if display_name(name) == name else f"{name} {display_name(name)}"
            table.add_row(Text(note + label), *_cells(per_type[name]))
        table.add_section()
        strict = scores["strict"]
        for title_, row in (
            ("strict, micro", strict["micro"]),
            (f"strict, macro over {strict['macro']['types']} types", strict["macro"]),
            ("untyped (exact boundary)", scores["untyped"]),
            ("partial (same type, overlap)", scores["partial"]),
        ):
            table.add_row(Text(title_, style="bold"), *_cells(row))
        self._out.print(table)
        if sources := scores.get("per_source"):
            self._out.print(_source_table(sources))

    def show_mentions(self, document: Document) -> None:
        """Print a text with its mentions coloured by type, each followed by its type's name."""
        labels = sorted({span.labels[0] for span in document.spans})
        text = Text()
        position = 0
        for span in sorted(document.spans, key=lambda span: span.start):
            if span.start < position:
                continue
            style = _COLOURS[labels.index(span.labels[0]) % len(_COLOURS)]
            text.append(document.text[position : span.start])
            text.append(document.text[span.start : span.end], style=f"bold {style}")
            text.append(f" [{display_name(span.labels[0])}]", style=style)
            position = span.end
        text.append(document.text[position:])
        self._out.print(text)

    def track(self, items: Iterator[Document], *, total: int | None) -> Iterator[Document]:
        """Pass documents on while showing how many went by."""
        with Progress(
            TextColumn("{task.completed:.0f} documents"),
            BarColumn(),
            TimeRemainingColumn(),
            console=self._out,
            disable=not self._out.is_terminal,
        ) as progress:
            yield from progress.track(items, total=total)


def _source_table(sources: Mapping[str, Any]) -> Table:
    """Return one row a source of merged data: how well each team's own documents are done."""
    table = Table(title="by source", title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("source", no_wrap=True, overflow="ellipsis", max_width=34)
    for name in ("P", "R", "F1", "macro F1", "gold", "documents"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in sources.items():
        *shares, _, support = _cells(row["micro"])
        table.add_row(Text(name), *shares, f"{100 * row['macro']['f1']:.1f}", support, f"{row['documents']:,}")
    return table


class _PlainProgress:
    """Progress as lines, about twenty a run, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown = -1

    def show(self, event: Event) -> None:
        """Print an evaluation, or a step when another twentieth of the run is done."""
        if event.dev is not None:
            self._console.say(_dev_line(event))
            return
        share = event.step * _PLAIN_LINES // event.num_steps
        if share == self._shown:
            return
        self._shown = share
        speed = event.tokens_per_s or 0.0
        left = (event.num_steps - event.step) * event.seconds / max(event.step, 1)
        self._console.say(
            f"step {event.step}/{event.num_steps}  loss {event.loss:.3f}  {speed:,.0f} tokens/s  {left:.0f} s left"
        )


def _dev_line(event: Event) -> str:
    assert event.dev is not None
    micro, macro = event.dev["strict"]["micro"], event.dev["strict"]["macro"]
    return f"step {event.step}: dev strict F1 micro {100 * micro['f1']:.1f}  macro {100 * macro['f1']:.1f}"


def _cells(row: Mapping[str, Any]) -> list[str]:
    interval = row.get("ci95")
    return [
        *(f"{100 * row[name]:.1f}" for name in ("precision", "recall", "f1")),
        f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f}" if interval else "",
        f"{row['support']:,}" if "support" in row else "",
    ]
