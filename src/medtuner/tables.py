"""Tables of runs for the terminal, within 80 columns.

show_statuses(read_statuses(folders)[0])
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from medtuner.groups import run_label
from medtuner.monitoring import ENDED, Status, read_statuses

_WIDTH = 22


def show_statuses(statuses: Sequence[Status]) -> None:
    """Print one row a run, and below the table the reasons that some states have."""
    rich.console.Console(highlight=False).print(_render(statuses))


def watch_statuses(find: Callable[[], Sequence[Path]], *, every: float) -> None:
    """Show the table again and again until every run has ended."""
    with Live(auto_refresh=False) as live:
        while True:
            statuses, trouble = read_statuses(find())
            live.update(Group(_render(statuses), Text(trouble, style="yellow")), refresh=True)
            if all(status.state in ENDED for status in statuses):
                return
            time.sleep(every)


def _render(statuses: Sequence[Status]) -> Group:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("run", no_wrap=True)
    for name in ("state", "job"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for name in ("try", "step", "loss", "F1", "tok/s", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    notes: list[Text] = []
    for status in statuses:
        step = f"{status.step}/{status.num_steps}" if status.step else ""
        table.add_row(
            _shorten(run_label(Path(status.run))),
            status.state,
            status.job,
            "" if status.attempt is None else str(status.attempt),
            step,
            "" if status.loss is None else f"{status.loss:.3f}",
            "" if status.dev_f1 is None else f"{100 * status.dev_f1:.1f}",
            "" if status.tokens_per_s is None else f"{status.tokens_per_s:,.0f}",
            "" if status.seconds_left is None else _duration(status.seconds_left),
        )
        if status.reason:
            notes.append(Text(f"{run_label(Path(status.run))}: {status.reason}"))
    return Group(table, *notes)


def show_comparison(summary: Mapping[str, Any]) -> None:
    """Print mean and standard deviation of every system, and how it differs from the first."""
    out = rich.console.Console(highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title="Test scores, strict F1 in percent")
    table.add_column("system", overflow="fold", max_width=34)
    for name in ("runs", "micro", "macro", "untyped"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in summary["systems"]:
        scores = [_mean_and_sd(row[name]) for name in ("micro", "macro", "untyped")]
        table.add_row(row["name"], str(len(row["runs"])), *scores)
    out.print(table)
    for row in summary["comparisons"]:
        low, high = row["ci95"]
        chance = "p < 0.001" if row["p"] < 0.001 else f"p = {row['p']:.3f}"
        out.print(
            f"{row['system']} against {row['baseline']}, {row['average']}: {100 * row['difference']:+.2f} "
            f"(95% {100 * low:+.2f} to {100 * high:+.2f}, {chance})"
        )
    for note in summary["notes"]:
        out.print(f"note: {note}", style="yellow")


def _mean_and_sd(row: Mapping[str, Any]) -> str:
    return f"{100 * row['mean']:.2f}" + ("" if row["sd"] is None else f" ± {100 * row['sd']:.2f}")


def _shorten(label: str) -> str:
    """Return a run's name within its column; of a long one the end, where the runs of a group differ."""
    return label if len(label) <= _WIDTH else f"…{label[1 - _WIDTH :]}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}h{minutes % 60:02d}" if minutes >= 60 else f"{minutes}m" if minutes else "<1m"
