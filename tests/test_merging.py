"""Teams merged: labels mapped, equal texts joined, conflicts decided by policy and listed, evaluation data kept out."""

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from medtuner.corpora import Corpus, Splits
from medtuner.corpora.formats import read_format, write_format
from medtuner.corpora.intake import Intake
from medtuner.documents import Document, Span, read_documents, write_documents
from medtuner.duplicates import TextIndex, find_leaks, warn_of_shared
from medtuner.errors import ConfigError, DataError
from medtuner.evaluation import ScoreOptions, collapse_gold, evaluate
from medtuner.labels import choose_label_space
from medtuner.ledger import Ledger
from medtuner.merged_files import MergeOptions, merge_files
from medtuner.merging import OnConflict, merge, name_apart
from medtuner.sources import LabelMapping, hold_out, read_mapping, read_source
from medtuner.tokenising import SpacyTokenizer

TEXT = "Aspirin helps against mild headache in most adult patients."
Run = Callable[..., subprocess.CompletedProcess[str]]


def write(path: Path, *documents: Document) -> str:
    with path.open("w", encoding="utf-8") as stream:
        write_documents(stream, documents)
    return str(path)


def note(*spans: tuple[int, int, str], text: str = TEXT, name: str = "1") -> Document:
    return Document(id=name, text=text, spans=tuple(Span(start=a, end=b, labels=(label,)) for a, b, label in spans))


def splits_of(train: Sequence[Document], test: Sequence[Document]) -> Splits:
    corpora = [Corpus(source="", documents=tuple(documents), mended={}) for documents in (train, test)]
    return Splits(train=corpora[0], dev=None, test=corpora[1])


def three_teams(tmp_path: Path) -> list[str]:
    return [
        "a=" + write(tmp_path / "a.jsonl", note((0, 7, "T121"), (27, 35, "T184"))),
        "b=" + write(tmp_path / "b.jsonl", note((0, 7, "T121"), (22, 35, "T184"), text=TEXT.replace(" in ", "  in\n"))),
        "c=" + write(tmp_path / "c.jsonl", note((0, 7, "T121"), (27, 35, "T184"))),
    ]


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ("majority", [(0, 7, "T121"), (27, 35, "T184")]),
        ("priority", [(0, 7, "T121"), (27, 35, "T184")]),
        ("union", [(0, 7, "T121"), (22, 35, "T184"), (27, 35, "T184")]),
    ],
)
def test_equal_texts_are_joined_and_conflicts_decided(
    policy: OnConflict, kept: list[tuple[int, int, str]], tmp_path: Path
) -> None:
    merged = merge([read_source(spec, LabelMapping()) for spec in three_teams(tmp_path)], on_conflict=policy)
    (document,) = merged.documents
    assert [(span.start, span.end, *span.labels) for span in document.spans] == kept
    assert document.extra["source"] == "a+b+c"
    assert [
        (row.start, row.end, sorted(name for name, has in row.votes.items() if has)) for row in merged.conflicts
    ] == [
        (22, 35, ["b"]),
        (27, 35, ["a", "c"]),
    ]
    assert merged.joined == 2


def test_conflicts_can_be_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"document 1: b has T184 at 22-35, a, c has not.*--on-conflict"):
        merge([read_source(spec, LabelMapping()) for spec in three_teams(tmp_path)], on_conflict="refuse")


def test_who_did_not_look_for_a_type_has_no_vote(tmp_path: Path) -> None:
    drugs = "drugs=" + write(tmp_path / "drugs.jsonl", note((0, 7, "T121")))
    signs = "signs=" + write(tmp_path / "signs.jsonl", note((27, 35, "T184")))
    merged = merge([read_source(drugs, LabelMapping()), read_source(signs, LabelMapping())])
    (document,) = merged.documents
    assert [span.labels for span in document.spans] == [("T121",), ("T184",)]
    assert not merged.conflicts
    assert document.extra["annotated_types"] == ["T121", "T184"]


def test_labels_are_mapped_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "labels.toml"
    path.write_text(
        '[labels.team]\ndrug = "phsu"\nnoise = ""\n[annotated]\nteam = ["T121", "T047"]\n[weights]\nteam = 2.0\n'
    )
    spec = "team=" + write(tmp_path / "x.jsonl", note((0, 7, "drug"), (8, 13, "noise"), (27, 35, "Sign or Symptom")))
    with pytest.raises(DataError, match=r"mentions of T184, which \[annotated\] does not list"):
        read_source(spec, read_mapping(path))
    path.write_text(path.read_text().replace('"T047"', '"T184"'))
    source = read_source(spec, read_mapping(path))
    assert [span.labels for span in source.documents[0].spans] == [("T121",), ("T184",)]
    assert source.left_out == {"label noise is mapped to nothing": 1}
    assert source.documents[0].extra == {"source": "team", "annotated_types": ["T121", "T184"], "weight": 2.0}
    write(tmp_path / "x.jsonl", note((0, 7, "drugs")))
    with pytest.raises(DataError, match=r"label 'drugs' is not in \[labels\.team\].*Did you mean 'drug'"):
        read_source(spec, read_mapping(path))
    path.write_text("[label.team]\n")
    with pytest.raises(ConfigError, match=r"unknown section \[label\].*Did you mean 'labels'"):
        read_mapping(path)


def test_what_one_source_has_twice_is_one_voter(tmp_path: Path) -> None:
    twice = "a=" + write(tmp_path / "a.jsonl", note(), note(name="2"))
    other = "b=" + write(tmp_path / "b.jsonl", note((0, 7, "T121")))
    mapping = LabelMapping(annotated={"a": ["T121"]}, weights={"b": 3.0})
    merged = merge([read_source(spec, mapping) for spec in (twice, other)])
    (document,) = merged.documents
    assert len(document.spans) == 1, "one of two voters is half"
    assert document.extra["weight"] == 3.0
    assert merged.joined == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[labels.taem]\nx = "T047"\n', r"labels\.taem: no source of this name. Did you mean 'team'"),
        ("[weights]\nteam = '2'\n", r"weights\.team = '2': must be a number"),
        ("labels = 3\n", r"labels\. = 3: must be a table"),
        ("[labels.team]\nDisease = ['T047']\n", r"must be a table of labels and TUIs"),
    ],
)
def test_a_mapping_that_would_map_nothing_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.toml"
    path.write_text(content)
    spec = "team=" + write(tmp_path / "x.jsonl", note((0, 7, "T121")))
    with pytest.raises(ConfigError, match=message):
        list(merge_files([spec], tmp_path / "out.jsonl", MergeOptions(labels=path)))


def test_collapsed_gold_is_judged_in_the_same_space() -> None:
    gold = [replace(note((0, 7, "T047")), extra={"annotated_types": ["T047"]})]
    space = choose_label_space("groups", [])
    collapsed = collapse_gold(gold, space, Ledger().account("test"))
    scores = evaluate(collapsed, [note((0, 7, "DISO"))], options=ScoreOptions(bootstrap=0))
    assert scores["strict"]["micro"]["f1"] == 1


def test_tokenised_and_raw_sentences_are_the_same() -> None:
    raw = "Aspirin (ASA) reduces the risk of stroke, in most adult patients at least."
    train = [note(name="t", text=f"A first sentence of another kind. {raw} And an end that is not there at all in it.")]
    gold = [note(name="g", text="Aspirin ( ASA ) reduces the risk of stroke , in most adult patients at least .")]
    (leak,) = find_leaks(train, gold, sentences=SpacyTokenizer("en").sentences)
    assert (leak.kind, leak.tolerated) == ("same sentence", False)


LONG = (
    "The patient was given low dose aspirin after the second stroke and recovered without any further event in a year."
)


def test_what_gold_did_not_look_for_is_not_judged() -> None:
    gold = [
        replace(note((0, 7, "T121")), extra={"annotated_types": ["T121"], "source": "a"}),
        note((0, 7, "T047"), name="2"),
    ]
    predicted = [note((0, 7, "T121"), (27, 35, "T184")), note((0, 7, "T047"), (27, 35, "T184"), name="2")]
    scores = evaluate(gold, predicted, options=ScoreOptions(bootstrap=0))
    micro = scores["strict"]["micro"]
    assert (micro["tp"], micro["fp"], micro["fn"]) == (2, 1, 0), (
        "the second document says nothing of what it looked for"
    )
    assert scores["protocol"]["predictions_not_judged"] == 1
    assert scores["per_source"]["a"]["micro"]["f1"] == 1


def test_near_duplicates_and_leaks(tmp_path: Path) -> None:
    train = [
        note(name="same", text=LONG.replace(" ", "\n", 1)),
        note(name="near", text=LONG + " She left."),
        note(name="new"),
    ]
    train.append(
        note(name="sentence", text=f"Something else. {LONG} Another end to it all, quite unlike the first one was.")
    )
    train.append(note(name="stock", text="All rights reserved. Nothing in common here at all with any of the others."))
    evaluation = [
        note(name="e1", text=LONG),
        note(name="e2", text="All rights reserved. A line that is nowhere else found."),
    ]
    leaks = find_leaks(train, evaluation, sentences=SpacyTokenizer("en").sentences)
    assert [(leak.train, leak.evaluation, leak.kind, leak.tolerated) for leak in leaks] == [
        ("same", "e1", "same document", False),
        ("near", "e1", "near-duplicate", False),
        ("sentence", "e1", "same sentence", False),
        ("stock", "e2", "same sentence", True),
    ]
    (warning,) = warn_of_shared(splits_of(train, evaluation))
    assert warning.startswith("test: 1 of 2 texts stand in the training data")
    assert list(warn_of_shared(splits_of(train[1:], evaluation))) == []
    index = TextIndex(train)
    assert index.near(train[0]) == [1]


def test_tokens_are_divided_where_mentions_cut_them(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    document = SpacyTokenizer("en").tokenise(note((0, 4, "X"), text="Anti-inflammatory drugs don't."), counts)
    words = [document.text[start:end] for start, end in document.tokens or ()]
    assert words[:2] == ["Anti", "-"]
    assert words[-3:] == ["do", "n't", "."]
    with pytest.raises(DataError, match=r"data\.language = 'english'"):
        SpacyTokenizer("english")


def test_sentences_are_rows_and_no_border_cuts_a_mention(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    text = "Aspirin helps. It does.\nStrain E. coli sp. K12 is not. Fine."
    document = SpacyTokenizer("en").tokenise(note((0, 7, "T121"), (31, 46, "T007"), text=text), counts)
    sentences = [text[start:end] for start, end in document.extra["sentences"]]
    assert sentences == ["Aspirin helps.", "It does.", "Strain E. coli sp. K12 is not.", "Fine."]
    assert counts["sentence border inside a mention, passed over"] == 1
    for name, file in (("hf", "x.json"), ("conll", "x.conll")):
        left_out = write_format(tmp_path / file, [document], name=name)
        rows = list(read_format(tmp_path / file, Intake(), name=name))
        assert [row.text for row in rows][:2] == ["Aspirin helps .", "It does ."]
        assert [row.id for row in rows] == [f"{document.id}/{number}" for number in range(4)]
        assert [span.labels for row in rows for span in row.spans] == [("T121",), ("T007",)]
        assert set(left_out) == {"text whose words do not stand one blank apart"}
    (undivided,) = [SpacyTokenizer("en").tokenise(note((0, 4, "X"), text="Aspirin helps."), counts, divide=False)]
    assert undivided.tokens == ((0, 7), (8, 13), (13, 14))


def test_the_end_of_every_source_is_held_out_and_does_not_leak(run_medtuner: Run, tmp_path: Path) -> None:
    texts = [
        f"Patient {word} got aspirin for a mild headache that had lasted since the early morning."
        for word in "abcdefghij"
    ]
    for team, order in (("a", texts), ("b", texts[5:] + [text.replace("got", "had") for text in texts[:5]])):
        notes = [note((14, 21, "T121"), text=text, name=str(number)) for number, text in enumerate(order)]
        write(tmp_path / f"{team}.jsonl", *notes)
    command = ("merge", "a.jsonl", "b.jsonl", "--holdout", "0.2")
    refused = run_medtuner(*command)
    assert refused.returncode == 2
    assert "the held-out 20% tests: 2 same document" in " ".join(refused.stderr.split())
    done = run_medtuner(*command, "--leaks", "drop")
    assert done.returncode == 0, done.stderr
    held_out = list(read_documents(tmp_path / "merged.heldout.jsonl"))
    trained = list(read_documents(tmp_path / "merged.jsonl"))
    assert [(row.id, row.extra["source"]) for row in held_out] == [("8", "a"), ("9", "a"), ("b/8", "b"), ("b/9", "b")]
    assert not {row.text for row in held_out} & {row.text for row in trained}
    lonely = run_medtuner("merge", "a.jsonl", "--holdout", "0.01")
    assert "source a: 10 documents are too few to hold out 0.01 of" in " ".join(lonely.stderr.split())


def test_versions_of_one_document_are_held_out_together(tmp_path: Path) -> None:
    rows = [
        replace(note(name=str(number), text=f"{TEXT} {number}"), extra={"annotator": annotator})
        for annotator in "xy"  # all of the one, then all of the other
        for number in range(5)
    ]
    source = read_source("a=" + write(tmp_path / "a.jsonl", *rows), LabelMapping())
    kept, held_out = hold_out(source, 0.4)
    assert [row.id for row in kept.documents] == ["0", "0", "1", "1", "2", "2"]
    assert [row.id for row in held_out] == ["3", "3", "4", "4"]
    assert [row.id for row in name_apart(held_out)] == ["3", "3", "4", "4"]


def test_one_id_of_two_texts_is_two_ids_and_a_leak_drops_its_own_document(tmp_path: Path) -> None:
    leaking = replace(note((0, 7, "T121")), extra={"annotator": "x"})
    other = note((0, 7, "T121"), text="Warfarin is another matter altogether, and that is why it is kept here.")
    specs = ["a=" + write(tmp_path / "a.jsonl", leaking), "b=" + write(tmp_path / "b.jsonl", other)]
    test = "t=" + write(tmp_path / "t.jsonl", note((0, 7, "T121"), name="t"))
    output = tmp_path / "merged.jsonl"
    list(merge_files(specs, output, MergeOptions(against=[test], leaks="drop")))
    assert [document.text for document in read_documents(output)] == [other.text]
    assert (tmp_path / "merged.heldout.jsonl").exists()
    list(merge_files(specs, output, MergeOptions()))
    assert [document.id for document in read_documents(output)] == ["1", "b/1"]
    assert not (tmp_path / "merged.heldout.jsonl").exists(), "an earlier merge's, now in training"
    with pytest.raises(DataError, match="would be written over the source"):
        list(merge_files([str(output)], output, MergeOptions()))


def test_faults_of_evaluation_data_are_told_and_its_versions_joined(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("7|t|Gout is painful.\n7\t0\t4\tGout\tT047\n7\t0\t4\tpain\tT184\n")
    rows = [replace(note((0, 7, label)), extra={"annotator": who}) for who, label in (("u", "T103"), ("v", "T121"))]
    specs = ["a=" + write(tmp_path / "a.jsonl", note((0, 8, "T121"), text="Warfarin is another matter."))]
    against = [f"t={tmp_path / 't.txt'}", "w=" + write(tmp_path / "w.jsonl", *rows)]
    output = tmp_path / "merged.jsonl"
    lines = list(merge_files(specs, output, MergeOptions(against=against, on_error="skip")))
    assert any(line.startswith("t (evaluation): ") and "skipped 1" in line for line in lines)
    ledger = json.loads((tmp_path / "merged.ledger.json").read_text())
    assert len(ledger["sources"]["t (evaluation)"]["faults"]) == 1
    assert len(list(read_documents(tmp_path / "merged.heldout.jsonl"))) == 2
    with pytest.raises(DataError, match="would be written over the source"):
        list(merge_files([str(tmp_path / "merged.heldout.jsonl")], output, MergeOptions()))


def test_conflicts_name_the_merged_document_and_merged_files_keep_their_teams(tmp_path: Path) -> None:
    gout = "Gout is a painful disease of the joints that comes and goes for many years."
    specs = ["x=" + write(tmp_path / "x.jsonl", note((0, 7, "T121")))]
    specs.append("y=" + write(tmp_path / "y.jsonl", note((0, 4, "T047"), text=gout)))
    specs.append("z=" + write(tmp_path / "z.jsonl", note((10, 17, "T047"), text=gout, name="9")))
    output = tmp_path / "merged.jsonl"
    list(merge_files(specs, output, MergeOptions()))
    documents = {document.id: document for document in read_documents(output)}
    conflicts = [json.loads(line) for line in (tmp_path / "merged.conflicts.jsonl").read_text().splitlines()]
    assert [documents[row["document"]].text for row in conflicts] == [gout, gout]
    again = read_source(str(output), LabelMapping())
    assert [document.extra for document in again.documents] == [document.extra for document in documents.values()]


def test_what_joining_drops_is_counted_and_joined_ids_are_listed(tmp_path: Path) -> None:
    def team(name: str, label: str, concept: str, **extra: object) -> str:
        span = Span(start=0, end=7, labels=(label,), extra={"concept": concept})
        return f"{name}=" + write(tmp_path / f"{name}.jsonl", replace(note(name=name), spans=(span,), extra=extra))

    sources = [read_source(team(*row), LabelMapping()) for row in (("a", "T103", "C1"), ("b", "T121", "C2"))]
    sources.append(read_source(team("c", "T121", "C2", ward="7"), LabelMapping()))
    merged = merge(sources, on_conflict="union")
    assert [span.labels for span in merged.documents[0].spans] == [("T103", "T121")]
    assert merged.dropped == {"keys of a further label of a mention": 1, "document key ward of an equal text": 1}
    assert merged.joined_ids == [["a/a", "b/b", "c/c"]]


def test_declared_types_may_be_names_and_unused_labels_are_told(tmp_path: Path) -> None:
    spec = "team=" + write(tmp_path / "x.jsonl", note((0, 7, "Chemical")))
    mapping = LabelMapping(labels={"team": {"chemical": "T109"}}, annotated={"team": ["Chemical", "dsyn"]})
    source = read_source(spec, mapping)
    assert source.annotated == ("T047", "T103")
    assert source.unused == ("chemical",)
    with pytest.raises(ConfigError, match=r"\[annotated\] team: .*nonsense"):
        read_source(spec, LabelMapping(annotated={"team": ["nonsense"]}))


def test_a_wrapped_sentence_leaks_as_well() -> None:
    sentence = "Aspirin lowers the risk of a second heart attack in older men by about one half."
    train = [note(name="a", text="First. " + sentence.replace("heart ", "heart\n"))]
    evaluation = [note(name="b", text=sentence + " " + LONG)]
    (leak,) = find_leaks(train, evaluation, sentences=SpacyTokenizer("en").sentences)
    assert (leak.kind, leak.tolerated) == ("same sentence", False)


def test_the_command_writes_files_that_train(run_medtuner: Run, tmp_path: Path, small_encoder: str) -> None:
    teams = three_teams(tmp_path)
    write(tmp_path / "gold.jsonl", note((0, 7, "T121"), name="g"))
    refused = run_medtuner("merge", *teams, "--against", "gold.jsonl")
    assert refused.returncode == 2
    assert "training would show what gold.jsonl tests: 1 same document" in " ".join(refused.stderr.split())
    with resources.as_file(resources.files("medtuner") / "data" / "medmentions_zs" / "validation.parquet") as path:
        medmentions = f"medmentions={path}"
    done = run_medtuner("merge", *teams, medmentions, "--against", "medmentions-zs:test", "--output", "all.jsonl")
    assert done.returncode == 0, done.stderr
    ledger = json.loads((tmp_path / "all.ledger.json").read_text())
    documents = list(read_documents(tmp_path / "all.jsonl"))
    assert ledger["documents"] == len(documents)
    assert ledger["mentions"] == sum(len(document.spans) for document in documents)
    assert (tmp_path / "all.heldout.jsonl").exists()
    assert len((tmp_path / "all.conflicts.jsonl").read_text().splitlines()) == 2
    rows = (tmp_path / "all.tokens.jsonl").read_text().splitlines()
    assert len(rows) == len(documents)
    assert {"tokens", "ner_tags", "id"} <= json.loads(rows[0]).keys()
    assert {row["id"].partition("/")[0] for row in map(json.loads, rows)} >= {"1"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.jsonl", "a.jsonl"], "two sources are named 'a'"),
        (["absent.jsonl"], "absent.jsonl: no such file"),
        (["a.jsonl", "--on-conflict", "vote"], "--on-conflict vote: valid are majority"),
        (["a.jsonl", "--labels", "absent.toml"], "absent.toml: no such mapping file"),
        (["a.jsonl", "--language", "zz"], "data.language = 'zz'"),
    ],
)
def test_mistakes_get_one_message(run_medtuner: Run, tmp_path: Path, arguments: Sequence[str], message: str) -> None:
    write(tmp_path / "a.jsonl", note())
    done = run_medtuner("merge", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
