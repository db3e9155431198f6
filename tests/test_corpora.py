import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import write_rows
from datasets import ClassLabel, Dataset, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from seqeval.metrics.sequence_labeling import get_entities as get_entities_default
from seqeval.scheme import IOB2, Entities

from medtuner.config import DataSection
from medtuner.corpora import guess_format, load_corpus, load_splits
from medtuner.corpora.medmentions import fetch_medmentions
from medtuner.corpora.tagged import TagReport, detect_scheme, spans_from_tags
from medtuner.errors import DataError

TAGS = st.lists(st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"]), min_size=1, max_size=12)


def test_embedded_medmentions_is_read_whole() -> None:
    counts = {}
    for split in ("train", "validation", "test"):
        corpus = load_corpus(f"medmentions-zs:{split}")
        mentions = sum(len(document.spans) for document in corpus.documents)
        types = {label for document in corpus.documents for span in document.spans for label in span.labels}
        orphans = sum(corpus.count_mended().values())
        counts[split] = (len(corpus.documents), mentions, len(types), orphans)
    # Published are the B- tags: 113,158, 1,710 and 1,430. Each orphan I- run begins one mention more.
    assert counts == {
        "train": (26770, 113158 + 306, 11, 306),
        "validation": (1289, 1710 + 1, 5, 1),
        "test": (1048, 1430 + 26, 5, 26),
    }


def test_block_split_is_contiguous_and_complete() -> None:
    splits = load_splits(DataSection(train="medmentions-zs", split="block"))
    sizes = {name: len(corpus.documents) for name, corpus in splits.named().items()}
    assert sizes == {"train": 21416, "dev": 2677, "test": 2677}
    whole = load_corpus("medmentions-zs").documents
    assert whole == tuple(document for corpus in splits.named().values() for document in corpus.documents)
    assert sum(sum(corpus.count_mended().values()) for corpus in splits.named().values()) == 306


def test_given_split_takes_the_datasets_own() -> None:
    splits = load_splits(DataSection(train="medmentions-zs", split="given", dev_limit=10))
    assert splits.dev is not None
    assert splits.test is not None
    assert (len(splits.dev.documents), len(splits.test.documents)) == (10, 1048)


def test_raw_text_is_tokenised_by_spacy_and_gold_divides_no_test_token(tmp_path: Path) -> None:
    record = {"id": "1", "text": "IL-2 helps. Fine.", "spans": [{"start": 0, "end": 2, "labels": ["T116"]}]}
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    data = {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl"), "split": "given"}
    splits = load_splits(DataSection.model_validate(data | {"language": "en"}))
    assert splits.test is not None
    words = {
        name: [document.text[start:end] for start, end in document.tokens or ()]
        for name, corpus in splits.named().items()
        for document in corpus.documents
    }
    assert words == {"train": ["IL", "-2", "helps", ".", "Fine", "."], "test": ["IL-2", "helps", ".", "Fine", "."]}
    assert splits.train.count_mended() == {"token divided where a mention begins or ends": 1}
    assert splits.train.documents[0].extra == {"sentences": [[0, 11], [12, 17]]}


@given(TAGS)
def test_dropped_orphans_agree_with_seqeval_strict(tags: list[str]) -> None:
    ours = spans_from_tags(tags, report=TagReport(), orphans="drop")
    theirs = [(e.start, e.end - 1, e.tag) for e in Entities([tags], IOB2).entities[0]]
    assert ours == theirs


@given(TAGS)
def test_orphans_that_begin_agree_with_the_lenient_reading(tags: list[str]) -> None:
    ours = spans_from_tags(tags, report=TagReport(), orphans="begin")
    assert ours == [(start, end, label) for label, start, end in get_entities_default(tags)]


@pytest.mark.parametrize(
    ("tags", "scheme", "spans"),
    [
        (["B-X", "E-X", "S-Y", "O"], "BIOES", [(0, 1, "X"), (2, 2, "Y")]),
        (["B-X", "I-X", "E-X", "B-X", "E-X"], "BIOES", [(0, 2, "X"), (3, 4, "X")]),
        (["B-X", "L-X", "U-Y", "U-Y"], "BILOU", [(0, 1, "X"), (2, 2, "Y"), (3, 3, "Y")]),
        (["I-X", "I-X", "B-X", "O"], "BIO", [(0, 1, "X"), (2, 2, "X")]),
        # seqeval reads the bare tag T047 as the type 047; ours keeps it whole.
        (["T047", "T047", "O", "T103", "T047"], "bare", [(0, 1, "T047"), (3, 3, "T103"), (4, 4, "T047")]),
    ],
)
def test_schemes_are_recognised(tags: list[str], scheme: str, spans: list[tuple[int, int, str]]) -> None:
    found = detect_scheme([tags])
    assert found == scheme
    assert spans_from_tags(tags, report=TagReport(scheme=found)) == spans


def test_bare_tags_in_seqeval_lose_their_first_letter() -> None:
    with pytest.warns(UserWarning, match="not to be NE tag"):
        assert get_entities_default(["T047", "O"]) == [("047", 0, 0)]


def test_orphans_can_be_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [(["a", "b"], ["O", "I-X"])])
    with pytest.raises(DataError, match=r"rows.jsonl:1: token 1 has I-X"):
        load_corpus(str(path), orphans="refuse")
    assert load_corpus(str(path)).count_mended() == {"orphan I- tag: began a mention": 1}
    assert load_corpus(str(path), orphans="drop").documents[0].spans == ()


def test_integer_tags_take_their_names_from_the_file(tmp_path: Path) -> None:
    features = Features(
        {"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O", "B-T047", "I-T047"]))}
    )
    rows = {"tokens": [["mild", "renal", "disease"]], "ner_tags": [[0, 1, 2]]}
    path = tmp_path / "named.parquet"
    Dataset.from_dict(rows, features=features).to_parquet(path)
    document = load_corpus(str(path)).documents[0]
    assert [(document.text[s.start : s.end], s.labels) for s in document.spans] == [("renal disease", ("T047",))]
    parquet.write_table(pa.table(rows), tmp_path / "nameless.parquet")
    with pytest.raises(DataError, match="integers without names"):
        load_corpus(str(tmp_path / "nameless.parquet"))


def test_json_array_and_documents_are_told_apart(tmp_path: Path) -> None:
    array = tmp_path / "array.json"
    array.write_text(json.dumps([{"tokens": ["a"], "ner_tags": ["B-X"]}], indent=1))
    assert guess_format(array) == "hf"
    assert load_corpus(str(array)).documents[0].spans[0].labels == ("X",)
    documents = tmp_path / "documents.jsonl"
    documents.write_text('{"id": "1", "text": "a b", "spans": []}\n')
    assert guess_format(documents) == "jsonl"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", "", "empty file"),
        ("keys.jsonl", '{"words": []}\n', "found the keys words"),
        ("foreign.jsonl", '{"id": 1, "text": "a", "marks": []}\n', "no key 'spans' among id, text, marks"),
        ("surrogate.jsonl", '{"id": 1, "text": "a \\ud83d b", "spans": []}\n', "half a surrogate pair"),
        ("uneven.jsonl", '{"tokens": ["a"], "ner_tags": []}\n', "1 tokens but 0 ner_tags"),
        ("blank.jsonl", '{"tokens": [" "], "ner_tags": ["O"]}\n', "token 0 is empty"),
        ("numbers.jsonl", '{"tokens": ["a"], "ner_tags": [1]}\n', "must be a string. Integers need their names"),
        ("some.xyz", "a", "its format is not known by its content"),
        ("broken.parquet", "a", "not a readable parquet file"),
        ("broken.json", "[{", "its format is not known by its content"),
    ],
)
def test_bad_files_are_refused_with_the_place(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as error:
        load_corpus(str(tmp_path / name))
    assert name in str(error.value)


def test_absent_sources_say_what_is_valid() -> None:
    with pytest.raises(DataError, match=r"absent.jsonl: no such file .* 'hub:owner/dataset'"):
        load_corpus("absent.jsonl")
    with pytest.raises(DataError, match="no such split. Valid: train, validation, test"):
        load_corpus("medmentions-zs:dev")


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.jsonl"
    path.write_text('{"id": "1", "text": "a", "spans": []}\n{"id": "1", "text": "b", "spans": []}\n')
    with pytest.raises(DataError, match=r"twice\.jsonl:2: document 1: another document has this id"):
        load_splits(DataSection(train=str(path), split="given"))


def test_hub_dataset_comes_from_the_local_cache_when_offline(tmp_path: Path, run_python) -> None:
    # A dataset prepared by `datasets` itself, in the cache layout of a download from the hub.
    done = run_python(
        """
        from medtuner.corpora import load_corpus
        from medtuner.errors import DataError
        corpus = load_corpus("hub:someone/tiny:train")
        assert [d.text for d in corpus.documents] == ["renal disease"], corpus
        assert corpus.documents[0].spans[0].labels == ("T047",)
        try:
            load_corpus("hub:someone/absent")
        except DataError as error:
            print(error)
        """,
        prepare="""
        from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
        import datasets.config, shutil
        from pathlib import Path
        features = Features({"tokens": List(Value("string")),
                             "ner_tags": List(ClassLabel(names=["O", "B-T047", "I-T047"]))})
        rows = {"tokens": [["renal", "disease"]], "ner_tags": [[1, 2]]}
        folder = Path("source/tiny"); folder.mkdir(parents=True)
        Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")
        from datasets import load_dataset
        load_dataset(str(folder))
        cache = Path(datasets.config.HF_DATASETS_CACHE)
        shutil.move(cache / "tiny", cache / "someone___tiny")
        """,
    )
    assert "hub:someone/absent: neither in the local cache" in done
    assert "medtuner fetch CONFIG" in done


def test_medmentions_is_read_by_its_official_splits(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the repository's layout: the real lists of PMIDs, and a corpus of one short document for each."""
    home = tmp_path / "mirror" / "st21pv" / "data"
    home.mkdir(parents=True)
    pmids: list[str] = []
    for path in (shared_data / "medmentions_meta").glob("corpus_pubtator_pmids_*.txt"):
        (home / path.name).write_bytes(path.read_bytes())
        if not path.name.endswith("all.txt"):
            pmids += path.read_text().split()
    rows = "".join(f"{pmid}|t|Aspirin\n{pmid}|a|helps\n{pmid}\t0\t7\tAspirin\tT103\tC0004057\n\n" for pmid in pmids)
    (home / "corpus_pubtator.txt.gz").write_bytes(gzip.compress(rows.encode()))
    monkeypatch.setenv("MEDTUNER_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match="medtuner fetch CONFIG"):
        load_corpus("medmentions:st21pv")
    monkeypatch.setenv("MEDTUNER_MEDMENTIONS_URL", (tmp_path / "mirror").as_uri())
    assert "2,635 train, 878 validation, 879 test" in fetch_medmentions("st21pv")
    splits = load_splits(DataSection(train="medmentions:st21pv", split="given"))
    assert [len(corpus.documents) for corpus in splits.named().values()] == [2635, 878, 879]
    with pytest.raises(DataError, match="with one of full, st21pv and train"):
        load_corpus("medmentions:st21")
    cut = tmp_path / "cache" / "medmentions" / "st21pv" / "data" / "corpus_pubtator.txt.gz"
    cut.write_bytes(gzip.compress(rows[: len(rows) // 2].encode()))
    with pytest.raises(DataError, match="PMIDs of test are not in it"):
        load_corpus("medmentions:st21pv:test")
