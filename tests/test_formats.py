"""Annotation formats: real files read whole or refused with their place, round trips of every writer, broken files."""

import gzip
import json
import random
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medtuner.conversion import convert_annotations
from medtuner.corpora.formats import FORMATS, guess_annotation_format, read_format, write_format
from medtuner.corpora.intake import POLICIES, Intake, Policy
from medtuner.documents import Document, Span
from medtuner.errors import DataError, MedtunerError

OUTPUTS = {
    "jsonl": "out.jsonl",
    "pubtator": "out.pubtator",
    "brat": "out_brat",
    "bioc-xml": "out.xml",
    "bioc-json": "out.json",
    "conll": "out.conll",
    "cas": "out_cas",
    "label-studio": "out_ls.json",
    "label-studio-predictions": "out_predictions.json",
    "hf": "out.parquet",
    "docbin": "out.spacy",
}


def essence(documents: list[Document]) -> list[object]:
    """What must survive: id, text, offsets, labels and concept."""
    return sorted(
        (
            document.id,
            document.text,
            sorted((span.start, span.end, span.labels, span.extra.get("concept", "")) for span in document.spans),
        )
        for document in documents
    )


def read(path: Path, policy: Policy = "refuse", name: str = "") -> tuple[list[Document], Intake]:
    intake = Intake(policy)
    return list(read_format(path, intake, name=name)), intake


# Real files


@pytest.mark.parametrize(
    ("file", "name", "documents", "mentions"),
    [
        ("bc5cdr/train.pubtator.txt.gz", "pubtator", 500, 9385),
        ("bc5cdr/dev.pubtator.txt.gz", "pubtator", 500, 9591),
        ("bc5cdr/test.pubtator.txt.gz", "pubtator", 500, 9809),
        ("formats/pubtator/medmentions_full_1doc.txt", "pubtator", 1, 98),
        ("formats/pubtator/tmVar.Normalization.txt", "pubtator", 158, 674),
        ("formats/brat/anatem_train_60", "brat", 60, 606),
        ("formats/brat/example1.ann", "brat", 1, 3),
        ("formats/conll/bionlp13cg_iob_sample.tsv", "conll", 94, 254),
        ("formats/conll/bionlp13cg_iobes_sample.tsv", "conll", 94, 254),
        ("formats/nested_iob2/genia_sample.iob2", "conll", 92, 299),
        ("formats/doccano/labeling.jsonl", "doccano", 3, 16),
        ("formats/doccano/labeling_text_label.jsonl", "doccano", 2, 11),
        ("formats/prodigy/food_200.jsonl", "prodigy", 200, 416),
        ("formats/label_studio/ner_completions_old.json", "label-studio", 1, 38),
        ("formats/webanno_tsv/test_input.tsv", "webanno-tsv", 1, 10),
        ("formats/cas/tsv3/debug.xmi", "cas", 1, 3),
        ("formats/cas/tsv3/data.json", "cas", 1, 3),
        ("formats/cas/tsv3/data-ref.json", "cas", 1, 3),
        ("formats/cas/emoji/debug.xmi", "cas", 1, 0),
        ("formats/cas/emoji/data.json", "cas", 1, 0),
        ("formats/webanno_tsv/test_input_quotes.tsv", "webanno-tsv", 1, 0),
        ("medmentions_zs/test.parquet", "hf", 1048, 1456),  # 26 begin with an orphan I-
    ],
)
def test_real_files_are_read_whole(shared_data: Path, file: str, name: str, documents: int, mentions: int) -> None:
    path = shared_data / file
    assert guess_annotation_format(path) == name
    found, intake = read(path)
    assert len(found) == intake.documents == documents
    assert sum(len(document.spans) for document in found) == intake.kept == intake.mentions == mentions


def test_layers_and_fragments_of_real_files(shared_data: Path) -> None:
    (webanno,), _ = read(shared_data / "formats/webanno_tsv/test_input.tsv")
    found = {(webanno.text[span.start : span.end], span.labels) for span in webanno.spans}
    assert ("Kampf des Herkules mit dem Achelous", ("OBJ",)) in found
    assert ("Herkules", ("PERmentioned",)) in found
    assert ("23 . Juli 1835", ("DATEletter",)) in found
    (brat,), intake = read(shared_data / "formats/brat/example1.ann")
    assert brat.spans[0].fragments == ((33, 40), (41, 42))
    assert brat.spans[0].extra == {"note": "this annotation is suspect"}
    assert intake.left_out["relation"] == intake.left_out["event"] == 1
    nested, _ = read(shared_data / "formats/nested_iob2/genia_sample.iob2")
    inside = [
        (inner, outer)
        for document in nested
        for inner in document.spans
        for outer in document.spans
        if inner != outer and outer.start <= inner.start and inner.end <= outer.end
    ]
    assert inside, "the layers of nested mentions are all read"
    (medmentions,), _ = read(shared_data / "formats/pubtator/medmentions_full_1doc.txt")
    assert medmentions.spans[0].labels == ("T116", "T123")


def test_two_annotators_are_two_documents(shared_data: Path) -> None:
    documents, _ = read(shared_data / "formats/doccano/labeling.jsonl")
    assert [(document.id, document.extra.get("annotator")) for document in documents] == [
        ("2578", "1"),
        ("2578", "2"),
        ("2580", None),
    ]


@pytest.mark.parametrize("file", ["formats/bioc/everything.xml", "formats/bioc/everything.json"])
def test_a_refusal_names_the_place(shared_data: Path, file: str) -> None:
    with pytest.raises(DataError, match="document 0: annotation [15]: .*without a label"):
        read(shared_data / file)
    documents, intake = read(shared_data / file, "skip")
    assert len(documents) == 2
    assert documents[1].text.startswith("abcdefg测试Non-ASCII"), "sentences make the text, counted from the first one"
    assert intake.mentions == len(intake.faults) == 5
    assert intake.left_out["relation"] == 3


def test_bc5cdr_survives_the_round_through_five_formats(shared_data: Path, tmp_path: Path) -> None:
    documents, _ = read(shared_data / "bc5cdr/test.pubtator.txt.gz")
    wanted = essence(documents)
    for name in ("pubtator", "bioc-xml", "brat", "cas", "label-studio", "bioc-json", "jsonl", "pubtator"):
        path = tmp_path / OUTPUTS[name]
        write_format(path, documents, name=name)
        assert guess_annotation_format(path) == name
        documents, intake = read(path)
        assert essence(documents) == wanted
        assert intake.kept == 9809


TAGTOG_HTML = """<!DOCTYPE html >
<html id="x-note.txt" data-origid="note.txt" class="anndoc" data-anndoc-version="3.6" lang="" xml:lang=""
 xmlns="http://www.w3.org/1999/xhtml">
<head><meta charset="UTF-8"/><title>x-note.txt</title></head>
<body><article><section data-type="title"><h2 id="s1h1">Aspirin &amp; headache</h2></section>
<section data-type=""><div class="content"><p id="s2p1">💊 North and South America.</p></div></section></article></body>
</html>
"""


def tagtog_entity(part: str, *offsets: tuple[int, str], kind: str = "e_1", state: str = "", **more: object) -> object:
    places = [{"start": start, "text": text} for start, text in offsets]
    return {"classId": kind, "part": part, "offsets": places, "confidence": {"state": state}, **more}


def write_tagtog(folder: Path, entities: list[object], *, version: str = "master", html: str = TAGTOG_HTML) -> Path:
    """An export in the layout and with the keys of docs.tagtog.com/anndoc.html."""
    record = {
        "annotatable": {"parts": ["s1h1", "s2p1"]},
        "anncomplete": False,
        "sources": [],
        "metas": {"m_1": {"value": True}},
        "entities": entities,
        "relations": [{"classId": "r_1", "entities": ["s1h1|e_1|0,7", "s1h1|e_1|10,18"]}],
    }
    for place, content in (
        (f"ann.json/{version}/pool/x-note.txt.ann.json", json.dumps(record)),
        ("plain.html/pool/x-note.txt.plain.html", html),
        ("annotations-legend.json", '{"e_1": "T109", "e_2": "T083", "f_1": "certainty"}'),
    ):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(content)
    return folder


DRUG = tagtog_entity(
    "s1h1",
    (0, "Aspirin"),
    fields={"f_1": {"value": "sure"}},
    normalizations={"n_1": {"source": {"name": "MeSH", "id": "D001241"}, "recName": "Aspirin"}},
)


def test_a_tagtog_export_is_read_with_parts_names_and_utf16_offsets(tmp_path: Path) -> None:
    divided = tagtog_entity("s2p1", (3, "North"), (19, "America"), kind="e_2")  # the pill is two UTF-16 units
    turned_down = tagtog_entity("s1h1", (10, "headache"), state="pre-removed")
    folder = write_tagtog(tmp_path / "export", [DRUG, divided, turned_down])
    assert guess_annotation_format(folder) == "tagtog"
    (document,), intake = read(folder)
    assert document.text == "Aspirin & headache\n💊 North and South America."
    drug, place = document.spans
    assert (drug.labels, drug.extra) == (("T109",), {"attributes": {"certainty": "sure"}, "concept": "D001241"})
    assert [document.text[start:end] for start, end in place.fragments] == ["North", "America"]
    assert place.labels == ("T083",)
    assert document.extra == {"anncomplete": False}
    wanted = {"suggestion that was turned down": 1, "relation": 1, "label of a document": 1}
    assert +intake.left_out == wanted
    (alone,), _ = read(folder / "ann.json/master/pool/x-note.txt.ann.json")
    assert alone == document


def test_members_of_tagtog_are_annotators_and_the_master_comes_first(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    for member in ("ann", "bob"):
        write_tagtog(folder, [DRUG], version=f"members/{member}")
    documents, _ = read(folder)
    assert [document.extra["annotator"] for document in documents] == ["ann", "bob"]
    write_tagtog(folder, [DRUG])
    (document,), intake = read(folder)
    assert "annotator" not in document.extra
    assert intake.left_out["a member's version beside the master"] == 2
    members, _ = read(folder / "ann.json" / "members")
    assert members == documents


def test_faults_of_tagtog_files_are_named(tmp_path: Path) -> None:
    folder = write_tagtog(tmp_path / "export", [tagtog_entity("s9p9", (0, "Aspirin"))])
    with pytest.raises(DataError, match=r"ann\.json: entity 0: document x-note\.txt: no such part: s9p9"):
        read(folder)
    _, intake = read(folder, "skip")
    assert intake.mentions == len(intake.faults) == 1
    (folder / "plain.html/pool/x-note.txt.plain.html").unlink()
    with pytest.raises(DataError, match=r"no x-note\.txt\.plain\.html \(or \.txt\)"):
        read(folder)


# Round trips of generated documents

WORDS = st.lists(st.text(alphabet=string.ascii_letters + "äß中😀'-.", min_size=1, max_size=8), min_size=1, max_size=12)


@st.composite
def documents(draw: Callable[..., object], *, flat: bool) -> Document:
    words = draw(WORDS)
    assert isinstance(words, list)
    places, position = [], 0
    for word in words:
        places.append((position, position + len(word)))
        position += len(word) + 1
    spans = []
    number = len(places)
    for index in range(number):
        kind = draw(st.sampled_from(["none", "none", "one", "two"]))
        if kind == "none" or (flat and spans and spans[-1].end > places[index][0]):
            continue
        last = min(number - 1, index + int(str(draw(st.integers(0, 2)))))
        labels = ("T047",) if flat or kind == "one" else ("T116", "T123")
        extra = {} if flat or kind == "one" else {"concept": "C0004057"}
        spans.append(Span(start=places[index][0], end=places[last][1], labels=labels, extra=extra))
    return Document(id="d1", text=" ".join(words), spans=tuple(spans), tokens=tuple(places))


@pytest.mark.parametrize(
    "name",
    ["jsonl", "pubtator", "brat", "bioc-xml", "bioc-json", "cas", "label-studio", "label-studio-predictions", "docbin"],
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_written_is_read_again(name: str, data: st.DataObject, tmp_path: Path) -> None:
    document = data.draw(documents(flat=False))
    path = tmp_path / OUTPUTS[name]
    left_out = write_format(path, [document], name=name)
    found, intake = read(path, name=name)
    assert essence(found) == essence([document])
    assert left_out.keys() <= {"tokens of a document"}
    assert not intake.faults


@pytest.mark.parametrize("name", ["conll", "hf"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flat_mentions_survive_tags(name: str, data: st.DataObject, tmp_path: Path) -> None:
    document = data.draw(documents(flat=True))
    path = tmp_path / OUTPUTS[name]
    left_out = write_format(path, [document], name=name)
    found, _ = read(path, name=name)
    assert essence(found) == essence([document])
    assert not left_out


def test_what_flat_tags_cannot_hold_is_counted(tmp_path: Path) -> None:
    spans = (
        Span(start=0, end=12, labels=("A", "B")),
        Span(start=8, end=12, labels=("C",)),
        Span(start=13, end=16, labels=("D",)),
    )
    left_out = write_format(
        tmp_path / "x.conll", [Document(id="1", text="kidney cell lines", spans=spans)], name="conll"
    )
    assert left_out == {
        "mention that overlaps a longer one": 1,
        "further label of a mention": 1,
        "text whose words do not stand one blank apart": 1,
        "white space at the border of a mention": 1,
    }
    lines = (tmp_path / "x.conll").read_text().splitlines()
    assert lines[1:] == ["kidney\tB-A", "cell\tI-A", "l\tO", "ine\tB-D", "s\tO", ""]


def test_every_key_that_a_format_cannot_hold_is_counted(tmp_path: Path) -> None:
    span = Span(start=0, end=9, labels=("A",), score=0.5, fragments=((0, 4), (5, 9)), extra={"concept": "C1", "odd": 1})
    document = Document(id="1", text="cell line", spans=(span,), tokens=((0, 4), (5, 9)), extra={"annotator": "a"})
    every = {
        "document key annotator",
        "span key concept",
        "span key odd",
        "fragments of a discontinuous mention",
        "score of a mention",
        "tokens of a document",
    }
    for name, file in OUTPUTS.items():
        left_out = write_format(tmp_path / file, [document], name=name)
        (found,), _ = read(tmp_path / file, name=name)
        kept = {f"document key {key}" for key in found.extra} | {f"span key {key}" for key in found.spans[0].extra}
        kept |= {"fragments of a discontinuous mention"} if found.spans[0].fragments == span.fragments else set()
        kept |= {"score of a mention"} if found.spans[0].score == 0.5 else set()
        kept |= {"tokens of a document"} if found.tokens == document.tokens else set()
        assert set(left_out) == every - kept, name


# Wrong input

TEXT = "Aspirin helps against headache. Aspirin is cheap."


def pubtator(*rows: str, text: str = TEXT) -> str:
    return "\n".join([f"7|t|{text}", *rows]) + "\n"


@pytest.mark.parametrize(
    ("content", "fault", "repaired"),
    [
        (pubtator("7\t1\t8\tAspirin\tT121"), "the text differs", (0, 7)),
        (pubtator("7\t30\t37\tAspirin\tT121"), "the text differs", (32, 39)),
        (pubtator("7\t40\t900\tcheap\tT080"), "offsets outside the text", (43, 48)),
        (pubtator("7\t5\t5\tAspirin\tT121"), "offsets outside the text", (0, 7)),
        (pubtator("7\t16\t23\tAspirin\tT121"), "the text differs", None),  # as near before as behind
        (pubtator("7\t0\t7\tParacetamol\tT121"), "the text differs", None),
        (pubtator("7\t0\t7\tAspirin\t"), "an annotation without a label", None),
        (pubtator("7\t0\t7\tAspirin"), "no line of ID", None),
    ],
)
def test_faults_are_refused_skipped_or_repaired(
    content: str, fault: str, repaired: tuple[int, int] | None, tmp_path: Path
) -> None:
    path = tmp_path / "team.txt"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"team\.txt:2: document 7: {fault}.*--on-error"):
        read(path)
    (document,), intake = read(path, "skip")
    assert document.spans == ()
    assert [(row.where, row.action) for row in intake.faults] == [(f"{path}:2", "skipped")]
    (document,), intake = read(path, "repair")
    assert [(span.start, span.end) for span in document.spans] == ([repaired] if repaired else [])
    assert [row.action for row in intake.faults] == ["repaired" if repaired else "skipped"]
    assert intake.mentions == 1 == intake.kept + intake.count("skipped").total()


def test_utf16_offsets_of_label_studio_are_converted(tmp_path: Path) -> None:
    text = "😀 Aspirin"
    value = '{"start": 3, "end": 10, "text": "Aspirin", "labels": ["T121"]}'
    task = (
        f'[{{"data": {{"text": "{text}"}}, "annotations": [{{"result": [{{"type": "labels", "value": {value}}}]}}]}}]'
    )
    (tmp_path / "ls.json").write_text(task)
    (document,), _ = read(tmp_path / "ls.json")
    assert document.text[document.spans[0].start : document.spans[0].end] == "Aspirin"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "empty file"),
        ("latin.txt", "7|t|Café\n".encode("latin-1"), r"latin\.txt:1: not UTF-8"),
        (
            "cut.txt.gz",
            gzip.compress(b"7|t|" + random.Random(1).randbytes(999).hex().encode())[:300],
            "damaged or cut short",
        ),
        ("what.tsv", b"one line of nothing\n", "its format is not known"),
    ],
)
def test_unreadable_files_are_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)


def test_crlf_and_bom_do_not_move_offsets(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(("\ufeff" + pubtator("7\t0\t7\tAspirin\tT121")).replace("\n", "\r\n").encode())
    (document,), intake = read(tmp_path / "a.txt")
    assert document.text == TEXT
    assert intake.kept == 1


@pytest.mark.parametrize("name", ["pubtator", "jsonl", "bioc-xml", "label-studio"])
def test_an_id_that_stands_twice_is_refused_or_renamed_and_listed(name: str, tmp_path: Path) -> None:
    span = Span(start=0, end=7, labels=("T121",))
    twice = [Document(id="7", text=text, spans=(span,)) for text in ("Aspirin helps.", "Aspirin is cheap.")]
    path = tmp_path / OUTPUTS[name]
    write_format(path, twice, name=name)
    with pytest.raises(DataError, match="document 7: another document has this id"):
        read(path)
    documents, intake = read(path, "skip")
    assert [document.id for document in documents] == ["7", "7#2"]
    assert [(fault.document, fault.action) for fault in intake.faults] == [("7", "repaired")]
    assert intake.kept == intake.mentions == 2


def test_an_id_is_known_again_after_any_number_of_documents() -> None:
    intake = Intake("skip")
    names = [intake.document(str(number % 50_000), "a", [], where="x").id for number in range(50_003)]
    assert names[:50_000] == [str(number) for number in range(50_000)]
    assert names[50_000:] == ["0#2", "1#2", "2#2"]


def test_a_folder_of_mixed_formats_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(pubtator())
    (tmp_path / "b.jsonl").write_text('{"id": "1", "text": "a", "spans": []}\n')
    with pytest.raises(DataError, match="mixed formats: .*is jsonl; .*is pubtator"):
        read(tmp_path)


def test_lonely_brat_annotations_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ann").write_text("T1\tX 0 1\ta\n")
    (tmp_path / "b.txt").write_text("a")
    (tmp_path / "b.ann").write_text("")
    with pytest.raises(DataError, match=r"no a\.txt beside it"):
        read(tmp_path)


def test_repair_takes_whole_words_before_parts_of_words(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(pubtator("7\t11\t14\tALS\tT047", text="Some SIGNALS of it are those of ALS here."))
    (document,), _ = read(tmp_path / "a.txt", "repair")
    assert (document.spans[0].start, document.spans[0].end) == (32, 35)


def test_chunk_columns_are_no_mentions_and_words_may_begin_with_a_hash(tmp_path: Path) -> None:
    (tmp_path / "ner.conll").write_text("EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n")
    (document,), intake = read(tmp_path / "ner.conll")
    assert [span.labels for span in document.spans] == [("ORG",)]
    assert intake.left_out["column of tags before the last, taken for chunks"] == 1
    (tmp_path / "tweet.conll").write_text("# id = second\n#covid B-DIS\nnow O\n")
    (document,), _ = read(tmp_path / "tweet.conll")
    assert (document.id, document.text, document.spans[0].labels) == ("second", "#covid now", ("DIS",))


def test_untouched_tasks_are_no_documents_without_mentions(tmp_path: Path) -> None:
    place = '{"start": 0, "end": 7, "text": "Aspirin", "%s": ["%s"]}'
    pairs = (("labels", "T121"), ("choices", "sure"))
    results = ", ".join(f'{{"type": "{kind}", "value": {place % (kind, label)}}}' for kind, label in pairs)
    tasks = ['{"data": {"text": "a"}, "annotations": []}']
    tasks.append('{"data": {"text": "b"}, "annotations": [{"was_cancelled": true}]}')
    tasks.append(f'{{"data": {{"text": "Aspirin"}}, "annotations": [{{"result": [{results}]}}]}}')
    (tmp_path / "ls.json").write_text(f"[{', '.join(tasks)}]")
    (document,), intake = read(tmp_path / "ls.json")
    assert [span.labels for span in document.spans] == [("T121",)]
    assert intake.left_out["task without an annotation"] == 2
    assert intake.left_out["result of type choices"] == 1


def test_a_conversion_never_removes_other_files(tmp_path: Path) -> None:
    source = tmp_path / "notes.pubtator"
    source.write_text(pubtator("7\t0\t7\tAspirin\tT121"))
    with pytest.raises(DataError, match="neither in IN"):
        list(convert_annotations(source, tmp_path, to_format="brat"))
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("mine")
    with pytest.raises(DataError, match="no earlier result"):
        list(convert_annotations(source, other, to_format="brat"))
    assert (other / "chapter.txt").read_text() == "mine"
    for _ in range(2):  # an earlier result may be written again
        lines = list(convert_annotations(source, tmp_path / "brat", to_format="brat"))
    assert "1 documents, 1 mentions, 1 kept" in lines


FUZZED = [
    "formats/pubtator/medmentions_full_1doc.txt",
    "formats/brat/anatem_train_60/PMID-10295626.ann",
    "formats/bioc/everything.xml",
    "formats/bioc/everything.json",
    "formats/conll/bionlp13cg_iob_sample.tsv",
    "formats/webanno_tsv/test_input.tsv",
    "formats/cas/tsv3/debug.xmi",
    "formats/cas/tsv3/data.json",
    "formats/label_studio/ner_completions_old.json",
    "formats/doccano/labeling.jsonl",
    "formats/prodigy/food_200.jsonl",
]


@pytest.mark.parametrize("file", FUZZED)
def test_mutated_files_give_an_error_or_a_full_account(shared_data: Path, tmp_path: Path, file: str) -> None:
    """Bytes changed, removed, doubled, lines cut: never a traceback, and every mention is kept or listed."""
    source = shared_data / file
    content = source.read_bytes()[:20_000]
    for other in source.parent.iterdir():
        if other.suffix in (".xml", ".txt") and other != source and other.stem in (source.stem, "debug-typesystem"):
            (tmp_path / other.name).write_bytes(other.read_bytes())
    name = guess_annotation_format(source)
    for seed in range(40):
        (tmp_path / source.name).write_bytes(mutate(content, random.Random(seed)))
        for policy in POLICIES:
            try:
                found, intake = read(tmp_path / source.name, policy, name)
            except MedtunerError:
                continue
            assert intake.mentions == intake.kept + intake.count("skipped").total()
            assert sum(len(document.spans) for document in found) == intake.kept


PILL = "\N{PILL} Aspirin"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[{"id": 1, "text": "Aspirin helps", "label": [[0, 7, "Drug"]]}]', "an array of doccano records"),
        ("a.json", '[{"id": "1", "text": "a", "spans": []}]', "an array of jsonl records"),
        ("a.jsonl", '{"id": "1", "text": "a \\ud83d b", "label": []}', "half a surrogate pair"),
        ("a.jsonl", '{"id": "\\ud83d", "text": "a", "spans": []}', "half a surrogate pair"),
        ("a.jsonl", '{"id": "1", "text": "a", "spans": [], "sentences": "none"}', "'sentences' must be a list"),
        ("a.jsonl", '{"text": "ab c", "answer": "accept", "tokens": [{"start": 0, "end": 70}]}', "a token at 0-70"),
        (
            "a.jsonl",
            '{"id": "1", "text": "a", "spans": [], "n": ' + "1" * 5000 + "}",
            "not readable as JSON|its format is not known",
        ),
        ("a.json", "[" * 200_000, "not readable as JSON|its format is not known"),
        ("a.json", '{"documents": [{"id": "1", "passages": [{"offset": 0, "text": 5}]}]}', "BioC"),
        ("a.txt", pubtator("7\tO\t7\tAspirin\tDrug"), r"a\.txt:2: .*no line of ID, start"),
        ("a.txt", pubtator("7\t--5\t7\tAspirin\tDrug"), r"a\.txt:2: .*no line of ID, start"),
        ("a.txt", pubtator("7\t" + "9" * 5000 + "\t7\tAspirin\tDrug"), r"a\.txt:2: .*no line of ID, start"),
    ],
)
def test_odd_input_is_refused_by_place(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)


def test_a_line_separator_inside_a_text_ends_no_record(tmp_path: Path) -> None:
    text = "\N{LINE SEPARATOR}" + PILL
    record = {"id": "1", "text": text, "spans": [{"start": 3, "end": 10, "labels": ["T121"]}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(record, ensure_ascii=False))
    (document,), _ = read(tmp_path / "a.jsonl")
    assert (document.text, document.spans[0].start, document.spans[0].end) == (text, 3, 10)


def label_studio(*values: dict[str, object], text: str = PILL) -> str:
    results = [{"type": "labels", "value": {"labels": ["T121"], **value}} for value in values]
    return json.dumps([{"id": 1, "data": {"text": text}, "annotations": [{"result": results}]}])


def test_offsets_beyond_a_text_with_emoji_are_faults_and_one_wrong_string_moves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "ls.json"
    for place in ({"start": 3, "end": 900}, {"start": -7, "end": 10}):
        path.write_text(label_studio(place))
        with pytest.raises(DataError, match="offsets outside the text"):
            read(path)
    right, wrong = {"start": 3, "end": 10, "text": "Aspirin"}, {"start": 0, "end": 2, "text": "helps"}
    path.write_text(label_studio(right, wrong))
    (document,), intake = read(path, "skip")
    assert [(span.start, span.end) for span in document.spans] == [(2, 9)]
    assert len(intake.faults) == 1


def test_versions_of_annotators_are_one_task_of_label_studio(tmp_path: Path) -> None:
    versions = [
        Document(id="1", text="Aspirin", spans=(Span(start=0, end=7, labels=(label,)),), extra={"annotator": who})
        for who, label in (("ann", "T121"), ("bob", "T103"))
    ]
    left_out = write_format(tmp_path / "ls.json", [*versions, Document(id="2", text="a")], name="label-studio")
    assert not left_out
    assert len(json.loads((tmp_path / "ls.json").read_text())) == 2
    documents, _ = read(tmp_path / "ls.json")
    assert documents[:2] == versions


def test_json_min_names_annotators_and_counts_what_is_no_place(tmp_path: Path) -> None:
    place = {"start": 0, "end": 7, "text": "Aspirin", "labels": ["T121"]}
    rows = [{"id": 1, "text": "Aspirin", "annotator": who, "label": [place], "mood": ["calm"]} for who in (1, 2)]
    (tmp_path / "min.json").write_text(json.dumps(rows, indent=1))
    documents, intake = read(tmp_path / "min.json")
    assert [document.extra for document in documents] == [{"annotator": "1"}, {"annotator": "2"}]
    assert +intake.left_out == {"item of 'mood' that is no place": 2}


def test_brat_lines_that_hide_others_are_faults(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Aspirin helps against pain.")
    annotations = tmp_path / "a.ann"
    for line, fault in (
        ("T1\tSym 22 26\tpain", "a second annotation of the name: T1"),
        (" T2\tX 0 1", "no line of BRAT"),
    ):
        annotations.write_text(f"T1\tDrug 0 7\tAspirin\n{line}\n")
        with pytest.raises(DataError, match=rf"a\.ann:2: .*{fault}"):
            read(annotations)
    annotations.write_text("T1\tDrug 0 7\tAspirin\n*\tEquiv T1 T1\n")
    (document,), _ = read(annotations)
    assert len(document.spans) == 1


def test_a_folder_accounts_for_files_of_another_kind(tmp_path: Path) -> None:
    folder = tmp_path / "team"
    write_format(folder, [Document(id="a", text="a")], name="brat")
    (folder / "b.jsonl").write_text('{"id": "b", "text": "b", "spans": []}\n')
    (folder / "README.md").write_text("ours")
    documents, intake = read(folder)
    assert len(documents) == 1
    assert +intake.left_out == {"file of another kind (.jsonl)": 1}


def test_files_that_no_reader_takes_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "team"
    write_format(folder, [Document(id="a", text="a")], name="brat")
    for name in ("B.TXT", "B.ANN", "c.txt.gz"):
        (folder / name).write_text("")
    _, intake = read(folder)
    assert +intake.left_out == {f"file of another kind ({end})": 1 for end in (".TXT", ".ANN", ".gz")}


def test_ids_like_tags_stay_comments(tmp_path: Path) -> None:
    document = Document(id="B-12", text="Aspirin helps", spans=(Span(start=0, end=7, labels=("T121",)),))
    write_format(tmp_path / "a.conll", [document], name="conll")
    (found,), _ = read(tmp_path / "a.conll")
    assert (found.id, found.text) == ("B-12", "Aspirin helps")


def test_prodigy_strings_are_compared_and_spans_of_another_shape_are_refused(tmp_path: Path) -> None:
    span = {"start": 8, "end": 13, "label": "Drug", "text": "Aspirin"}
    (tmp_path / "p.jsonl").write_text(json.dumps({"text": "Aspirin helps.", "spans": [span], "answer": "accept"}))
    with pytest.raises(DataError, match="the text differs"):
        read(tmp_path / "p.jsonl")
    (tmp_path / "a.jsonl").write_text('{"id": "1", "text": "a", "spans": {"0": {}}}')
    with pytest.raises(DataError, match="'spans' must be a list"):
        read(tmp_path / "a.jsonl", "skip")


def test_a_tools_own_keys_do_not_pass_for_ours(tmp_path: Path) -> None:
    task = json.loads(label_studio({"start": 0, "end": 1}, text="a"))
    task[0]["annotations"][0]["result"][0]["meta"] = {"start": 5, "score": "high"}
    (tmp_path / "ls.json").write_text(json.dumps(task))
    documents, _ = read(tmp_path / "ls.json")
    write_format(tmp_path / "a.jsonl", documents, name="jsonl")
    (again,), _ = read(tmp_path / "a.jsonl")
    assert (again.spans[0].start, again.spans[0].extra) == (0, {"source_start": 5, "source_score": "high"})


def test_blank_tokens_and_tokens_with_blanks_are_no_words(tmp_path: Path) -> None:
    tokens = [{"start": 0, "end": 7}, {"start": 7, "end": 9}, {"start": 9, "end": 14}]
    record = {"text": "Aspirin\n\nhelps", "answer": "accept", "tokens": tokens, "spans": []}
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    (document,), intake = read(tmp_path / "a.jsonl")
    assert document.tokens == ((0, 7), (9, 14))
    assert intake.mended["blank token left out"] == 1
    wide = Document(id="note 7", text="New\tYork", tokens=((0, 8),))
    left_out = write_format(tmp_path / "x.conll", [wide, Document(id="2", text=" ")], name="conll")
    assert (tmp_path / "x.conll").read_text() == "# id = note_7\nNew\tO\nYork\tO\n\n"
    assert left_out["document without a word"] == 1
    assert left_out["white space or shape of an identifier or attribute"] == 1


def test_faulty_spans_of_our_own_format_follow_the_policy(tmp_path: Path) -> None:
    spans = [{"start": 0, "end": 900, "labels": ["A"]}, {"start": 0, "end": 1, "labels": ["A"]}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "1", "text": "abc", "spans": spans}))
    with pytest.raises(DataError, match="span 0-900"):
        read(tmp_path / "a.jsonl")
    (document,), intake = read(tmp_path / "a.jsonl", "skip")
    assert (len(document.spans), intake.mentions, intake.kept, len(intake.faults)) == (1, 2, 1, 1)


@pytest.mark.parametrize("name", ["bioc-xml", "cas"])
def test_control_characters_are_refused_where_xml_cannot_keep_them(name: str, tmp_path: Path) -> None:
    document = Document(id="1", text="a", spans=(Span(start=0, end=1, labels=("A\x01",)),))
    with pytest.raises(DataError, match="control characters in its labels"):
        write_format(tmp_path / "x", [document], name=name)


def test_compressed_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(pubtator())
    with pytest.raises(DataError, match="without compression"):
        list(convert_annotations(tmp_path / "a.txt", tmp_path / "b.jsonl.gz", to_format="jsonl"))


MEDLINE = """<?xml version="1.0" encoding="utf-8"?>
<PubmedArticleSet><PubmedArticle><MedlineCitation><PMID Version="1">28400001</PMID><Article>
<ArticleTitle>Aspirin for headache.</ArticleTitle><Abstract><AbstractText Label="AIM">To see <i>whether</i> it helps.
</AbstractText><AbstractText>It does.</AbstractText></Abstract></Article></MedlineCitation></PubmedArticle>
</PubmedArticleSet>
"""


@pytest.mark.parametrize("name", ["jsonl", "hf", "docbin", "brat", "medline", "tagtog", "text"])
def test_mutated_files_of_other_formats_too(shared_data: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    documents, _ = read(shared_data / "formats/brat/anatem_train_60")
    if name == "medline":
        (folder / "pubmed.xml").write_text(MEDLINE)
    elif name == "text":
        (folder / "a.txt").write_text(documents[0].text)
    elif name == "tagtog":
        write_tagtog(folder, [DRUG, tagtog_entity("s2p1", (3, "North"), (19, "America"))])
    else:
        write_format(
            folder / {"jsonl": "a.jsonl", "hf": "a.json", "docbin": "a.spacy"}.get(name, "brat"), documents, name=name
        )
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    source = folder if name in ("brat", "tagtog", "text") else files[0]
    for seed in range(40):
        generator = random.Random(seed)
        file = generator.choice(files)
        content = file.read_bytes()
        file.write_bytes(mutate(content[:20_000] if name != "docbin" else content, generator))
        for policy in POLICIES:
            try:
                found, intake = read(source, policy, name)
            except MedtunerError:
                continue
            assert intake.mentions == intake.kept + intake.count("skipped").total()
            assert sum(len(document.spans) for document in found) == intake.kept
        file.write_bytes(content)


def mutate(content: bytes, generator: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(generator.randint(1, 5)):
        place = generator.randrange(max(1, len(changed)))
        kind = generator.randrange(5)
        if kind == 0:
            changed[place : place + 1] = bytes([generator.randrange(256)])
        elif kind == 1:
            del changed[place : place + generator.randint(1, 40)]
        elif kind == 2:
            changed[place:place] = changed[place : place + generator.randint(1, 40)]
        elif kind == 3:
            changed[place:place] = generator.choice(
                [b"\t", b"\n", b"-1", b"null", b"{}", b"99999999", "😀".encode(), b"\r"]
            )
        else:
            del changed[place:]
            changed = changed or bytearray(b"x")
    return bytes(changed)


def test_every_format_is_named_once_and_can_be_asked_for() -> None:
    assert set(OUTPUTS) == {name for name, one in FORMATS.items() if one.write}
    with pytest.raises(DataError, match="Did you mean 'pubtator'"):
        read(Path("x"), name="pubtater")
