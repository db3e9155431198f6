"""The UMLS semantic types: names, tree numbers, parents, groups, definitions and distances.

The table holds the 127 current types and 9 retired ones (`status`), from the UMLS Semantic Network (National Library
of Medicine; https://www.nlm.nih.gov/research/umls/knowledge_sources/semantic_network/, free of IP restrictions).

    >>> find("Disease or Syndrome")
    'T047'
    >>> ancestors("T047")
    ('T046', 'T038', 'T070', 'T067', 'T051')
"""

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from medtuner.errors import DataError, nearest

# The 21 types of MedMentions ST21pv (Mohan & Li 2019, "MedMentions: A Large Biomedical Corpus Annotated with UMLS
# Concepts", section 3).
ST21PV = (
    "T005 T007 T017 T022 T031 T033 T037 T038 T058 T062 T074 T082 T091 T092 T097 T098 T103 T168 T170 T201 T204"
).split()


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticType:
    """One row of the semantic network; `parent` and the group are empty where the network gives none."""

    tui: str
    abbreviation: str
    name: str
    tree_number: str
    parent: str
    group: str
    group_name: str
    status: str
    definition: str


@functools.cache
def semantic_types() -> Mapping[str, SemanticType]:
    """Return all 136 types by TUI, current ones first."""
    table = resources.files("medtuner") / "data" / "semantic_types.tsv"
    with table.open(encoding="utf-8") as stream:
        rows = [
            SemanticType(
                tui=row["tui"],
                abbreviation=row["abbrev"],
                name=row["name"],
                tree_number=row["tree_number"],
                parent=row["parent_tui"],
                group=row["group_abbrev"],
                group_name=row["group_name"],
                status=row["status"],
                definition=row["definition"],
            )
            for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        ]
    return {row.tui: row for row in sorted(rows, key=lambda row: row.status != "current")}


def current_types() -> tuple[str, ...]:
    """Return the TUIs of the 127 types of the current network."""
    return tuple(tui for tui, row in semantic_types().items() if row.status == "current")


def groups() -> Mapping[str, str]:
    """Return the 15 semantic groups, abbreviation to name (McCray, Burgun & Bodenreider 2001)."""
    return {row.group: row.group_name for row in semantic_types().values() if row.group}


def find(text: str) -> str:
    """Return the TUI that a TUI, a name or an abbreviation names; case and underscores do not matter."""
    key = text.strip().replace("_", " ").casefold()
    names = _names()
    if key not in names:
        raise DataError(
            f"{text!r} is no UMLS semantic type (a TUI such as T047, a name or an abbreviation)."
            f"{nearest(key, names)} `medtuner labels` lists them."
        )
    return names[key]


@functools.cache
def _names() -> Mapping[str, str]:
    names: dict[str, str] = {}
    for tui, row in semantic_types().items():
        for name in (tui, row.name, row.abbreviation):
            names.setdefault(name.casefold(), tui)
    return names


def ancestors(tui: str) -> tuple[str, ...]:
    """Return the chain of parents of a type, nearest first, up to the root Entity (T071) or Event (T051)."""
    chain: list[str] = []
    types = semantic_types()
    parent = types[tui].parent
    while parent:
        chain.append(parent)
        parent = types[parent].parent
    return tuple(chain)


def distance(one: str, other: str) -> int | None:
    """Return the number of is-a edges between two types; None where they share no root."""
    path = (one, *ancestors(one))
    positions = {tui: steps for steps, tui in enumerate((other, *ancestors(other)))}
    for steps, tui in enumerate(path):
        if tui in positions:
            return steps + positions[tui]
    return None


def display_name(label: str) -> str:
    """Return the name of a TUI or of a semantic group, or the label itself when it is neither."""
    if label in semantic_types():
        return semantic_types()[label].name
    return groups().get(label, label)
