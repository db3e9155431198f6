import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtuner.documents import Document, Span, document_from_json, document_to_json, read_documents, write_documents
from medtuner.errors import DataError

LABELS = st.lists(st.sampled_from(["T047", "T103", "Gene"]), min_size=1, max_size=3, unique=True).map(tuple)
EXTRA = st.dictionaries(st.sampled_from(["concept", "annotator", "note"]), st.text(max_size=5), max_size=2)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    text = draw(st.text(min_size=1, max_size=40))
    bounds = st.lists(st.integers(0, len(text)), min_size=2, max_size=2, unique=True).map(sorted)
    spans = tuple(
        Span(
            start=start,
            end=end,
            labels=draw(LABELS),
            score=draw(st.none() | st.floats(0, 1)),
            fragments=draw(st.just(()) | st.just(((start, end),))),
            extra=draw(EXTRA),
        )
        for start, end in draw(st.lists(bounds, max_size=4))
    )
    tokens = draw(st.none() | st.just(tuple((i, i + 1) for i in range(len(text)))))
    return Document(id=draw(st.text(min_size=1, max_size=5)), text=text, spans=spans, tokens=tokens, extra=draw(EXTRA))


@given(documents())
def test_json_round_trip(document: Document) -> None:
    record = json.loads(json.dumps(document_to_json(document)))
    assert document_from_json(record, where="test") == document


@given(st.lists(documents(), max_size=5))
def test_file_round_trip(tmp_path_factory: pytest.TempPathFactory, written: list[Document]) -> None:
    stream = io.StringIO()
    assert write_documents(stream, written) == len(written)
    path = tmp_path_factory.mktemp("documents") / "documents.jsonl.gz"
    path.write_bytes(gzip.compress(stream.getvalue().encode("utf-8", "surrogatepass")))
    assert list(read_documents(path)) == written


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"bad.jsonl:1: not JSON"),
        ("[1]", r"bad.jsonl:1: found list"),
        ('{"id": "1"}', r"key 'text' must be a string"),
        ('{"text": "abc"}', r"key 'id' must be a string"),
        (
            '{"id": "7", "text": "abc", "spans": [{"start": 0, "end": 9, "labels": ["X"]}]}',
            r"document 7: span 0-9.*<= 3",
        ),
        ('{"id": "7", "text": "abc", "spans": [{"start": 2, "end": 2, "labels": ["X"]}]}', r"start < end"),
        ('{"id": "7", "text": "abc", "spans": [{"start": 0, "end": 2, "labels": []}]}', r"at least one non-empty"),
        ('{"id": "7", "text": "abc", "spans": [{"start": true, "end": 2, "labels": ["X"]}]}', r"whole numbers"),
        ('{"id": "7", "text": "abc", "spans": {}}', r"'spans' must be a list"),
        ('{"id": "7", "text": "abc", "tokens": [[0, 2], [1, 3]]}', r"token 1-3 begins before token 0-2 ends"),
    ],
)
def test_bad_lines_name_the_place(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        list(read_documents(path))


def test_damaged_files_name_the_line(tmp_path: Path) -> None:
    good = b'{"id": "1", "text": "abc"}\n'
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(good + '{"id": "2", "text": "café"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.jsonl:2: not UTF-8"):
        list(read_documents(latin))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(good * 1000)[:-20])
    with pytest.raises(DataError, match="damaged or cut short"):
        list(read_documents(cut))
    with pytest.raises(DataError, match="no such file"):
        list(read_documents(tmp_path / "absent.jsonl"))


def test_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "bom.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"id": "1", "text": "abc"}\r\n')
    assert [document.text for document in read_documents(path)] == ["abc"]
