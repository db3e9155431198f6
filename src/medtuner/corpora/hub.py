"""Datasets of the Hugging Face hub with `tokens` and `ner_tags`, read through the `datasets` library.

    for row in read_hub("ibm-research/MedMentions-ZS", split="train"): ...

What was once downloaded is read from the local cache when there is no network (`HF_HOME` says where the cache is).
"""

from collections.abc import Iterator
from typing import Any, cast

from medtuner.corpora.tables import Row, class_names, row_from_columns
from medtuner.errors import DataError


def read_hub(name: str, *, split: str) -> Iterator[Row]:
    """Yield the rows of one split; `name` is ``owner/dataset`` or ``owner/dataset/configuration``."""
    dataset = _load(name, split)
    missing = [column for column in ("tokens", "ner_tags") if column not in dataset.features]
    if missing:
        raise DataError(f"hub:{name}: no column {' and '.join(missing)}; it has {', '.join(dataset.features)}.")
    names = class_names(dataset.features["ner_tags"])
    for index, record in enumerate(dataset):
        where = f"hub:{name}:{split}: row {index}"
        yield row_from_columns(
            record["tokens"], record["ner_tags"], names, where=where, identifier=record.get("id", "")
        )


def hub_dataset(source: str) -> str:
    """Return ``owner/dataset`` of a source such as ``hub:owner/dataset/configuration:split``; "" of any other source."""
    kind, _, rest = source.partition(":")
    return _repository(rest.partition(":")[0])[0] if kind == "hub" else ""


def _repository(name: str) -> tuple[str, str | None]:
    """Divide ``owner/dataset/configuration`` into repository and configuration."""
    repository, _, configuration = name.rpartition("/")
    return (repository, configuration) if name.count("/") == 2 else (name, None)


def _load(name: str, split: str) -> Any:
    import datasets
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        loaded = cast(Any, datasets.load_dataset(*_repository(name)))
    except (DatasetNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, ConnectionError) as error:
        raise DataError(
            f"hub:{name}: neither in the local cache nor on a hub this machine reaches ({str(error).splitlines()[0]}). "
            "Where there is internet run, with the same HF_HOME: medtuner fetch CONFIG. "
            'Or use data.train = "medmentions-zs", which is embedded.'
        ) from None
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        raise DataError(f"hub:{name}: cannot be read: {str(error).splitlines()[0]}") from None
    if split not in loaded:
        raise DataError(f"hub:{name}: no split {split!r}; it has {', '.join(loaded)}.")
    return loaded[split]
