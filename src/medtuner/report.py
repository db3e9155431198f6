"""One self-contained HTML page for a run: scores, pictures, ledger, configuration.

write_report(Path("runs/stage1"))       # reads what the run stored, writes report.html there
"""

import base64
from importlib import resources
from pathlib import Path
from typing import Any

from medtuner.config import load_config
from medtuner.errors import RunError
from medtuner.figures import draw_learning_curve, draw_per_type
from medtuner.runs import read_json, write_text
from medtuner.semantic_network import display_name


def write_report(folder: Path) -> Path:
    """Draw a run's figures, write its page and return where it is.

    Raises `RunError` when the folder holds no run that got as far as its ledger.
    """
    from jinja2 import Environment

    if not (folder / "ledger.json").exists():
        raise RunError(
            f"{folder}: no ledger.json, so no run has begun here. Name a run folder such as runs/quickstart."
        )
    scores = read_json(folder / "scores.json") if (folder / "scores.json").exists() else None
    pictures = _draw(folder, scores)
    config = load_config(folder / "config.toml")
    environment = Environment(autoescape=True)
    environment.filters["percent"] = lambda fraction: f"{100 * fraction:.1f}"
    template = (resources.files("medtuner") / "data" / "report.html.jinja").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        name=config.run.name,
        encoder=config.model.encoder,
        train_source=config.data.train,
        environment=read_json(folder / "environment.json"),
        ledger=read_json(folder / "ledger.json"),
        config=(folder / "config.toml").read_text(encoding="utf-8"),
        scores=scores,
        headline=_headline(scores),
        per_type=_per_type(scores),
        untrained=[display_name(name) for name, _, row in _per_type(scores) if not row.get("trained", True)],
        pictures=[(title, base64.b64encode(path.read_bytes()).decode()) for title, path in pictures],
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _draw(folder: Path, scores: dict[str, Any] | None) -> list[tuple[str, Path]]:
    pictures: list[tuple[str, Path]] = []
    if (folder / "metrics.jsonl").exists():
        pictures.append(("Learning curve", folder / "figures" / "learning_curve.png"))
        draw_learning_curve(folder / "metrics.jsonl", pictures[-1][1])
    if scores:
        pictures.append(("F1 by type", folder / "figures" / "per_type.png"))
        draw_per_type(scores, pictures[-1][1])
    return pictures


def _headline(scores: dict[str, Any] | None) -> list[tuple[str, dict[str, Any]]]:
    if scores is None:
        return []
    strict = scores["strict"]
    return [
        ("Strict micro", strict["micro"]),
        ("Strict macro", strict["macro"]),
        ("Untyped", scores["untyped"]),
        ("Partial", scores["partial"]),
    ]


def _per_type(scores: dict[str, Any] | None) -> list[tuple[str, str, dict[str, Any]]]:
    if scores is None:
        return []
    rows = [(name, display_name(name), row) for name, row in scores["strict"]["per_type"].items() if row["support"]]
    return sorted(rows, key=lambda row: -row[2]["support"])
