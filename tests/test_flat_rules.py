"""Overlapping, discontinuous and several-typed mentions under each declared rule."""

import pytest

from medtuner.config import build_config
from medtuner.documents import Span
from medtuner.errors import ConfigError
from medtuner.flat_rules import FlatRules

OUTER = Span(start=0, end=20, labels=("T023",))
INNER = Span(start=5, end=12, labels=("T047",))


@pytest.mark.parametrize(
    ("rules", "first"),
    [
        (FlatRules(), OUTER),
        (FlatRules(overlap="shortest"), INNER),
        (FlatRules(overlap="priority", priority=["T047"]), INNER),
        (FlatRules(overlap="priority", priority=["T121"]), OUTER),
    ],
)
def test_who_keeps_an_overlap(rules: FlatRules, first: Span) -> None:
    assert rules.order([INNER, OUTER])[0] == first


@pytest.mark.parametrize(("rule", "place"), [("hull", (3, 12)), ("first", (3, 5)), ("drop", None)])
def test_what_a_discontinuous_mention_takes(rule: str, place: tuple[int, int] | None) -> None:
    span = Span(start=3, end=12, labels=("T047",), fragments=((3, 5), (10, 12)))
    assert FlatRules(discontinuous=rule).place(span) == place
    assert FlatRules(discontinuous=rule).place(INNER) == (5, 12)


def test_which_type_is_trained_on() -> None:
    labels = ("T103", "T121")  # Chemical, and Pharmacologic Substance below it
    assert FlatRules().pick(labels) == "T103"
    assert FlatRules(several="specific").pick(labels) == "T121"
    assert FlatRules(several="frequent", counts={"T121": 5, "T103": 2}).pick(labels) == "T121"
    assert FlatRules(several="specific").pick(("drug", "noise")) == "drug", "labels outside the network are all alike"


def test_priority_and_its_list_need_each_other() -> None:
    for setting in ("labels.overlap=priority", "labels.priority=['T047']"):
        with pytest.raises(ConfigError, match="need each other"):
            build_config({}, overrides=[setting], where="test")
