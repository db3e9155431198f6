"""The shape of the code: imports point down, files and functions stay small, the command line starts light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "medtuner"

LEVELS = [
    {"errors"},
    {"documents", "semantic_network", "config", "signals", "distributed", "caches"},
    {"runs", "ledger", "batch_script", "flat_rules", "tokenising"},
    {"corpora", "labels", "metrics", "attempts", "groups", "wheels"},
    {"alignment", "slurm", "notifications", "duplicates"},
    {"batches", "checkpoints", "decoding", "models", "evaluation", "story", "sources", "agreement"},
    {"prediction", "quality", "merging"},
    {"training", "recognizer", "figures", "submission"},
    {
        "preflight",
        "fetching",
        "monitoring",
        "report",
        "comparison",
        "conversion",
        "merged_files",
        "data_check",
        "console",
        "annotation",
        "quickstart",
    },
    {"experiment", "tables"},
    {"cli_jobs", "cli_data"},
    {"cli"},
    {"__init__", "__main__"},
]
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}
FILES = sorted(SOURCE.rglob("*.py"))


def module_name(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_modules(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("medtuner."):
            names.add(node.module.split(".")[1])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_to_lower_levels(path: Path) -> None:
    name = module_name(path)
    own = LEVEL_OF[name]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wrong = {other for other in imported_modules(tree) if other != name and LEVEL_OF[other] >= own}
    assert not wrong, f"{name} (level {own}) imports {wrong}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{path.name}:{node.lineno} {node.name}"


def test_only_distributed_and_runs_read_launcher_variables() -> None:
    readers = {
        module_name(path) for path in FILES if any(word in path.read_text() for word in ("SLURM_", "WORLD_SIZE"))
    }
    # runs records SLURM_JOB* as provenance, batch_script writes bash
    assert readers == {"distributed", "runs", "slurm", "batch_script"}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom medtuner.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), len(sys.modules), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert "quickstart" in done.stdout
    assert not {"torch", "transformers", "numpy", "datasets", "pyarrow", "matplotlib", "pydantic"} & set(lines)
    assert int(lines[-1]) < 500


def test_public_names_are_frozen() -> None:
    import medtuner

    assert medtuner.__all__ == ["Document", "MedtunerError", "Recognizer", "Span"]
    assert all(hasattr(medtuner, name) for name in medtuner.__all__)
    with pytest.raises(AttributeError, match="Recogniser"):
        _ = medtuner.Recogniser
