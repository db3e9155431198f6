"""MedMentions itself, as its repository lays it out: `full/data` and `st21pv/data` with the official splits (CC0).

    documents = read_medmentions("st21pv", "train", intake)

Each edition is a PubTator file, `corpus_pubtator.txt.gz`, and lists of PMIDs for training (2,635 abstracts), development
(878) and test (879) (Mohan & Li 2019, github.com/chanzuckerberg/MedMentions). The files lie below `MEDTUNER_CACHE`, in
``medmentions/st21pv/data``: `medtuner fetch` brings them there, or a copy of the repository's folders is put there by hand.
"""

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from medtuner.caches import cache_folder
from medtuner.corpora.intake import Intake
from medtuner.corpora.pubtator import read_pubtator
from medtuner.documents import Document, open_text
from medtuner.errors import DataError
from medtuner.runs import write_bytes

MEDMENTIONS = "medmentions"
EDITIONS = ("full", "st21pv")
_CORPUS = "corpus_pubtator.txt.gz"
_LISTS = {"train": "trng", "validation": "dev", "test": "test"}
_HOME = "https://raw.githubusercontent.com/chanzuckerberg/MedMentions/master"
_TIMEOUT_S = 120


def read_medmentions(edition: str, split: str, intake: Intake) -> Iterator[Document]:
    """Yield the documents of one official split; raises `DataError` when the files are absent or a PMID is missing."""
    if edition not in EDITIONS or split not in _LISTS:
        raise DataError(
            f"{MEDMENTIONS}:{edition}:{split}: write {MEDMENTIONS}:EDITION or {MEDMENTIONS}:EDITION:SPLIT with one of "
            f"{', '.join(EDITIONS)} and {', '.join(_LISTS)}."
        )
    folder = medmentions_folder(edition)
    wanted = _read_pmids(folder / _list_name(split))
    missing = set(wanted)
    for document in read_pubtator(folder / _CORPUS, Intake(intake.policy)):
        if document.id in missing:
            missing.remove(document.id)
            yield intake.take(document, str(folder / _CORPUS))
    if missing:
        raise DataError(f"{folder / _CORPUS}: {len(missing)} PMIDs of {split} are not in it, first {min(missing)}.")


def medmentions_folder(edition: str) -> Path:
    """Return where an edition's files lie."""
    return cache_folder() / MEDMENTIONS / edition / "data"


def _list_name(split: str) -> str:
    return f"corpus_pubtator_pmids_{_LISTS[split]}.txt"


def _read_pmids(path: Path) -> list[str]:
    if not path.exists():
        raise DataError(
            f"{path}: no such file. Where there is internet run, with the same MEDTUNER_CACHE: medtuner fetch CONFIG; or "
            "put the folders full/data and st21pv/data of the MedMentions repository there."
        )
    with open_text(path) as stream:
        return [line.strip() for line in stream if line.strip()]


def fetch_medmentions(edition: str) -> str:
    """Download an edition's files that are not there yet and check that every split is whole; return what was found.

    `MEDTUNER_MEDMENTIONS_URL` names a mirror of the repository's folders.
    """
    home = os.environ.get("MEDTUNER_MEDMENTIONS_URL", _HOME)
    folder = medmentions_folder(edition)
    for name in (_CORPUS, *map(_list_name, _LISTS)):
        if not (folder / name).exists():
            url = f"{home}/{edition}/data/{name}"
            try:
                with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
                    write_bytes(folder / name, answer.read())
            except (urllib.error.URLError, OSError) as error:
                raise DataError(f"{url}: cannot be fetched: {error}. Does this machine reach it?") from None
    counts = {split: sum(1 for _ in read_medmentions(edition, split, Intake())) for split in _LISTS}
    return f"{folder}: " + ", ".join(f"{count:,} {split}" for split, count in counts.items())
