"""Pictures of stored results: the learning curve and F1 for each type.

    draw_learning_curve(folder / "metrics.jsonl", folder / "figures" / "learning_curve.png")

Every function reads what a run has stored and writes one PNG; nothing is computed anew.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtuner.runs import read_metrics, write_bytes
from medtuner.semantic_network import display_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREY = "#1f5fa8", "#d9822b", "#8a8f98"


def draw_learning_curve(metrics: Path, picture: Path) -> None:
    """Draw training loss, and dev F1 where it was measured, over steps."""
    rows = read_metrics(metrics)
    logged = [row for row in rows if "loss" in row]
    evaluated = [row for row in rows if "dev_f1" in row]
    figure = _new_figure(7, 3.6)
    axes: Any = figure.add_subplot()
    axes.plot([row["step"] for row in logged], [row["loss"] for row in logged], color=_BLUE, label="training loss")
    axes.set_xlabel("step")
    axes.set_ylabel("loss per labelled subword", color=_BLUE)
    axes.set_ylim(bottom=0)
    _tidy(axes)
    if evaluated:
        right: Any = axes.twinx()
        steps = [row["step"] for row in evaluated]
        right.plot(steps, [100 * row["dev_f1"] for row in evaluated], color=_ORANGE, marker="o")
        right.set_ylabel("dev strict micro F1 (%)", color=_ORANGE)
        right.set_ylim(0, 100)
        right.spines["top"].set_visible(False)
    _save(figure, picture)


def draw_per_type(scores: Mapping[str, Any], picture: Path) -> None:
    """Draw strict F1 with its 95% interval for each type in gold, largest support on top."""
    rows = [(name, row) for name, row in scores["strict"]["per_type"].items() if row["support"]]
    rows.sort(key=lambda item: item[1]["support"])
    figure = _new_figure(7, 1.2 + 0.32 * len(rows))
    axes: Any = figure.add_subplot()
    values = [100 * row["f1"] for _, row in rows]
    colours = [_BLUE if row.get("trained", True) else _GREY for _, row in rows]
    axes.barh([f"{display_name(name)} (n={row['support']:,})" for name, row in rows], values, color=colours)
    for position, (_, row) in enumerate(rows):
        if row["ci95"]:
            axes.plot([100 * bound for bound in row["ci95"]], [position] * 2, color="black", linewidth=1.2)
    axes.set_xlim(0, 100)
    axes.set_xlabel("strict F1 (%), line: 95% interval; grey: type never trained")
    _tidy(axes)
    _save(figure, picture)


def _new_figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _tidy(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(visible=True, axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _save(figure: "Figure", picture: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_bytes(picture, content.getvalue())
