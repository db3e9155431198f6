"""Sources of annotated text, each read into `Document`s, and their division into training, dev and test.

A source is written as one string:

- ``medmentions-zs`` (or ``medmentions-zs:validation``): the embedded copy of ibm-research/MedMentions-ZS
- ``medmentions:st21pv`` or ``medmentions:full``: MedMentions with its official splits, from local files
- ``hub:owner/dataset`` (or ``hub:owner/dataset/configuration:split``): a Hugging Face dataset of `tokens` and `ner_tags`
- a path: a file or folder of any format of `medtuner.corpora.formats`, such as Document JSON Lines, PubTator or BRAT

    splits = load_splits(config.data)
    splits.train.documents[0].text
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from medtuner.config import DataSection
from medtuner.corpora.formats import guess_annotation_format as guess_format
from medtuner.corpora.formats import read_format
from medtuner.corpora.hub import read_hub
from medtuner.corpora.intake import Intake, Policy
from medtuner.corpora.medmentions import MEDMENTIONS, read_medmentions
from medtuner.corpora.tables import Row, documents_from_rows, read_rows
from medtuner.corpora.tagged import Orphans
from medtuner.documents import Document, read_documents
from medtuner.errors import DataError
from medtuner.tokenising import SpacyTokenizer

EMBEDDED = "medmentions-zs"
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """The documents of one source; `mended` counts, by document id, what a reading rule had to mend."""

    source: str
    documents: tuple[Document, ...]
    mended: Mapping[str, Counter[str]]

    def count_mended(self) -> Counter[str]:
        """Return how often each reading rule mended something in these documents."""
        counts: Counter[str] = Counter()
        for document in self.documents:
            counts.update(self.mended.get(document.id, {}))
        return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """What a run trains on, tunes on and is tested on; `dev` and `test` may be absent."""

    train: Corpus
    dev: Corpus | None
    test: Corpus | None

    def named(self) -> dict[str, Corpus]:
        """Return the splits that exist, by name."""
        every = {"train": self.train, "dev": self.dev, "test": self.test}
        return {name: corpus for name, corpus in every.items() if corpus is not None}


def _read_tagged(source: str, rows: Iterable[Row], orphans: Orphans) -> Corpus:
    documents: list[Document] = []
    mended: dict[str, Counter[str]] = {}
    for document, counts in documents_from_rows(source, rows, orphans):
        documents.append(document)
        if counts:
            mended[document.id] = counts
    return Corpus(source=source, documents=tuple(documents), mended=mended)


def _read_tagged_file(path: Path, orphans: Orphans) -> Corpus:
    return _read_tagged(path.name, read_rows(path), orphans)


def _read_annotated(path: Path, name: str, policy: Policy) -> Corpus:
    """Read a file or folder of any annotation format; what was repaired or skipped is counted by document."""
    intake = Intake(policy)
    documents = tuple(read_format(path, intake, name=name))
    mended: dict[str, Counter[str]] = {}
    for fault in intake.faults:
        kind = f"{fault.action}: {fault.what.partition(':')[0]}"
        mended.setdefault(fault.document, Counter())[kind] += 1
    return Corpus(source=path.name, documents=documents, mended=mended)


def load_corpus(
    source: str, *, split: str = "train", orphans: Orphans = "begin", policy: Policy = "refuse", form: str = ""
) -> Corpus:
    """Read one source whole; `split` is used where the source names none itself, `form` names a file's format."""
    name, _, own_split = source.partition(":")
    if name == EMBEDDED:
        corpus = _read_embedded(own_split or split, orphans)
    elif name == MEDMENTIONS:
        edition, _, own_split = own_split.partition(":")
        documents = tuple(read_medmentions(edition, own_split or split, Intake(policy)))
        corpus = Corpus(source=f"{MEDMENTIONS}:{edition}/{own_split or split}", documents=documents, mended={})
    elif name == "hub":
        dataset, _, own_split = own_split.partition(":")
        rows = read_hub(dataset, split=own_split or split)
        corpus = _read_tagged(f"{dataset}/{own_split or split}", rows, orphans)
    else:
        path = Path(source)
        form = form or guess_format(path)
        corpus = _read_tagged_file(path, orphans) if form == "hf" else _read_annotated(path, form, policy)
    if not corpus.documents:
        raise DataError(f"{source}: no documents in it.")
    return corpus


def _read_embedded(split: str, orphans: Orphans) -> Corpus:
    if split not in _SPLITS:
        raise DataError(f"{EMBEDDED}:{split}: no such split. Valid: {', '.join(_SPLITS)}.")
    file = resources.files("medtuner") / "data" / "medmentions_zs" / f"{split}.parquet"
    with resources.as_file(file) as path:
        return _read_tagged(f"{EMBEDDED}/{split}", read_rows(path), orphans)


def load_splits(data: DataSection) -> Splits:
    """Read and divide the data of a run as `[data]` says.

    ``split = "block"`` cuts `train` into contiguous blocks of 80, 10 and 10 percent: sentences stand in document order,
    so a shuffled cut would put sentences of one abstract on both sides. Limits keep the first documents of a split.
    """
    train = load_corpus(data.train, orphans=data.orphans, policy=data.on_error, form=data.format)
    if data.split == "block":
        first, second = int(len(train.documents) * 0.8), int(len(train.documents) * 0.9)
        dev: Corpus | None = _part(train, first, second)
        test: Corpus | None = _part(train, second, len(train.documents))
        train = _part(train, 0, first)
    else:
        dev = _load_given(data, data.dev, "validation")
        test = _load_given(data, data.test, "test")
    splits = Splits(
        train=_limit(train, data.train_limit),
        dev=dev and _limit(dev, data.dev_limit),
        test=test and _limit(test, data.test_limit),
    )
    for name, corpus in splits.named().items():
        if not corpus.documents:
            raise DataError(f"data.{name}: no documents ({data.train} has too few to cut into blocks).")
        _refuse_duplicate_ids(name, corpus)
    return _tokenise(splits, data.language) if data.language else splits


def _tokenise(splits: Splits, language: str) -> Splits:
    """Give documents without tokens those of spaCy; mentions divide tokens in training alone: others are to be found."""
    tokenizer = SpacyTokenizer(language)

    def tokenise(corpus: Corpus, *, divide: bool) -> Corpus:
        mended = dict(corpus.mended)
        documents: list[Document] = []
        for document in corpus.documents:
            counts: Counter[str] = Counter()
            documents.append(tokenizer.tokenise(document, counts, divide=divide))
            if +counts:
                mended[document.id] = mended.get(document.id, Counter()) + counts
        return Corpus(source=corpus.source, documents=tuple(documents), mended=mended)

    return Splits(
        train=tokenise(splits.train, divide=True),
        dev=splits.dev and tokenise(splits.dev, divide=False),
        test=splits.test and tokenise(splits.test, divide=False),
    )


def _part(corpus: Corpus, first: int, last: int) -> Corpus:
    return Corpus(source=corpus.source, documents=corpus.documents[first:last], mended=corpus.mended)


def _limit(corpus: Corpus, limit: int) -> Corpus:
    return _part(corpus, 0, limit) if limit else corpus


def is_dataset(source: str) -> bool:
    """Say whether a source is a dataset with splits of its own, and no file."""
    return source.partition(":")[0] in (EMBEDDED, MEDMENTIONS, "hub")


def _load_given(data: DataSection, source: str, split: str) -> Corpus | None:
    """Read a named split; datasets that have their own splits need no name for it."""
    if not source and is_dataset(data.train) and data.train.count(":") < 2:
        source = EMBEDDED if data.train.partition(":")[0] == EMBEDDED else data.train
    if not source:
        return None
    return load_corpus(source, split=split, orphans=data.orphans, policy=data.on_error, form=data.format)


def _refuse_duplicate_ids(split: str, corpus: Corpus) -> None:
    counts = Counter((document.id, str(document.extra.get("annotator", ""))) for document in corpus.documents)
    (identifier, _), count = counts.most_common(1)[0]
    if count > 1:
        raise DataError(
            f"data.{split} ({corpus.source}): {count} documents have the id {identifier!r}. Each needs its own id, or "
            "its own 'annotator'."
        )


def iterate_documents(source: str) -> Iterator[Document]:
    """Yield a source's documents one by one, annotated or not; Document JSON Lines are streamed, the rest is read whole."""
    path = Path(source)
    form = guess_format(path) if path.exists() else ""
    if form == "jsonl":
        yield from read_documents(path)
    elif form == "hf":
        yield from _read_tagged(path.name, read_rows(path, annotated=False), "begin").documents
    elif form:
        yield from read_format(path, Intake(), name=form)
    else:
        yield from load_corpus(source).documents
