import doctest

import pytest

from medtuner import documents, semantic_network
from medtuner.errors import DataError
from medtuner.labels import LabelSpace, check_labels, choose_label_space
from medtuner.semantic_network import ST21PV, ancestors, current_types, distance, find, groups, semantic_types


@pytest.mark.parametrize("module", [documents, semantic_network], ids=lambda module: module.__name__)
def test_examples_in_the_text_are_true(module) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_network_is_whole() -> None:
    types = semantic_types()
    assert (len(types), len(current_types()), len(groups())) == (136, 127, 15)
    assert len(ST21PV) == 21
    assert {row.parent for row in types.values() if row.status == "current"} - set(types) == {""}
    for tui in current_types():
        row = types[tui]
        assert row.name
        assert row.definition
        # The tree number of a type extends that of its parent; the first level stands right under A and B.
        assert row.tree_number.startswith(types[row.parent].tree_number) if row.parent else row.tree_number in "AB"


def test_types_are_found_by_every_name() -> None:
    for tui in current_types():
        row = semantic_types()[tui]
        assert {find(tui), find(row.name), find(row.abbreviation), find(row.name.upper())} == {tui}
    assert find("Disease_or_Syndrome") == "T047"
    with pytest.raises(DataError, match="Did you mean 'disease or syndrome'"):
        find("Disease of Syndrome")


def test_no_held_out_type_of_medmentions_zs_has_a_trained_ancestor() -> None:
    trained = set("T038 T103 T058 T017 T033 T082 T170 T062 T074 T204 T098".split())
    held_out = "T091 T005 T201 T037 T092 T022 T168 T031 T007 T097".split()
    assert not [tui for tui in held_out if trained & set(ancestors(tui))]
    assert distance("T007", "T204") == 2  # Bacterium and Eukaryote are both Organisms
    assert distance("T103", "T047") is None  # an entity and an event share no root


def space(kind: str | list[str]) -> LabelSpace:
    return choose_label_space(kind, [])


def test_labels_collapse_into_the_space() -> None:
    assert space("st21pv").collapse(["T047"]) == ("T038",)
    assert space("st21pv").collapse(["T116", "T123"]) == ("T103",)
    assert space("st21pv").collapse(["T071"]) == ()
    assert space("full").collapse(["T047", "dsyn"]) == ("T047",)
    assert space("groups").collapse(["T047", "T103"]) == ("DISO", "CHEM")
    assert space(["Chemical", "T047"]).types == ("T103", "T047")
    assert space(["T103"]).collapse(["T121"]) == ("T103",)
    assert space("full").tags[:3] == ("O", "B-T001", "I-T001")


def test_unreadable_labels_name_the_document() -> None:
    document = documents.Document(id="d9", text="p53", spans=(documents.Span(start=0, end=3, labels=("Gene",)),))
    with pytest.raises(DataError, match="document d9: span 0-3: 'Gene' is no UMLS"):
        check_labels(space("st21pv"), [document])
    assert choose_label_space("train", [document]).types == ("Gene",)
    for bad, message in (
        ([], "empty list"),
        (["T999"], "T999"),
        ("plain", "no label space"),
        ("train", "no annotated"),
    ):
        with pytest.raises(DataError, match=message):
            choose_label_space(bad, [])
