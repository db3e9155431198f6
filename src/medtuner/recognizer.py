"""A trained model in memory: load it once, annotate text.

    recognizer = Recognizer.load("runs/quickstart")
    document = recognizer.annotate("Aspirin lowers the risk of stroke.")
    [(document.text[s.start : s.end], s.labels[0], s.score) for s in document.spans]

`save_model` writes the Hugging Face layout that `load` and plain `transformers` both read.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from medtuner.alignment import SubwordEncoder
from medtuner.documents import Document
from medtuner.errors import ModelError
from medtuner.labels import LabelSpace
from medtuner.models import choose_precision, load_model, load_tokenizer, quiet_transformers
from medtuner.prediction import Predictor
from medtuner.runs import read_json, write_folder, write_json
from medtuner.tokenising import SpacyTokenizer

_SETTINGS = "medtuner.json"


class Recognizer:
    """A model with its tokeniser and label space, ready to annotate."""

    def __init__(self, predictor: Predictor, *, trained_types: tuple[str, ...], language: str = "") -> None:
        self._predictor = predictor
        self.trained_types = trained_types
        self._tokenizer = SpacyTokenizer(language) if language else None

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", precision: str = "auto") -> "Recognizer":
        """Load a run folder or its `model` folder.

        `device` is auto, cpu or cuda; `precision` is bf16, fp32 or auto: that of training where the device has it.
        """
        folder = find_model(Path(path))
        settings = read_json(folder / _SETTINGS)
        chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        if precision == "auto" and settings["precision"] == "fp32":
            precision = "fp32"
        tokenizer = load_tokenizer(str(folder))
        space = LabelSpace(kind=settings["label_space"]["kind"], types=tuple(settings["label_space"]["types"]))
        encoder = SubwordEncoder(tokenizer, max_tokens=settings["max_tokens"], overlap=settings["overlap"])
        return cls(
            Predictor(
                model=load_model(folder, chosen),
                encoder=encoder,
                space=space,
                device=chosen,
                precision=choose_precision(precision, chosen)[0],
                continuation=settings["continuation"],
            ),
            trained_types=tuple(settings["trained_types"]),
            language=settings.get("language", ""),
        )

    @property
    def space(self) -> LabelSpace:
        """Return the types that the model predicts."""
        return self._predictor.space

    def annotate(self, text: str) -> Document:
        """Return the text as a document with the mentions found, each with its score."""
        return self.annotate_documents([Document(id="text", text=text)])[0]

    def annotate_documents(self, documents: Sequence[Document]) -> list[Document]:
        """Return the documents with predicted spans in place of their own."""
        return list(self.annotate_stream(documents))

    def annotate_stream(self, documents: Sequence[Document]) -> Iterator[Document]:
        """Yield annotated documents in order, holding one group of log-probabilities in memory at a time."""
        if self._tokenizer is None:
            for group in self._predictor.predict_groups(documents):
                yield from group
            return
        # Words as in training; what the caller gets back is the caller's document.
        counts: Counter[str] = Counter()
        words = [self._tokenizer.tokenise(document, counts, divide=False) for document in documents]
        found = (document for group in self._predictor.predict_groups(words) for document in group)
        for document, predicted in zip(documents, found, strict=True):
            yield replace(document, spans=predicted.spans)


def find_model(path: Path) -> Path:
    """Return the model folder of a run folder, or the folder itself when it is one."""
    for folder in (path / "model", path):
        if (folder / _SETTINGS).is_file():
            return folder
    state = "its training has not finished" if (path / "config.toml").exists() else "no model of medtuner in it"
    raise ModelError(f"{path}: {state}. Name a run folder that finished, or a folder with config.json and {_SETTINGS}.")


def save_model(
    folder: Path,
    predictor: Predictor,
    tokenizer: Any,
    *,
    max_tokens: int,
    trained_types: Sequence[str],
    language: str = "",
) -> None:
    """Write model, tokeniser and medtuner's own settings into one folder, all or nothing."""
    settings = {
        "label_space": {"kind": predictor.space.kind, "types": list(predictor.space.types)},
        "max_tokens": max_tokens,
        "overlap": predictor.encoder.overlap,
        "continuation": predictor.continuation,
        "precision": "bf16" if predictor.precision == torch.bfloat16 else "fp32",
        "trained_types": list(trained_types),
        "language": language,
    }

    def fill(target: Path) -> None:
        with quiet_transformers():
            cast(Any, predictor.model).save_pretrained(target)
            tokenizer.save_pretrained(target)
        write_json(target / _SETTINGS, settings)

    write_folder(folder, fill)


def largest_window(model: nn.Module, tokenizer: Any, wanted: int) -> int:
    """Return how many subwords, special ones included, the encoder takes at once, at most `wanted`."""
    limits = [wanted, int(tokenizer.model_max_length)]
    config = cast(Any, model).config
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        # RoBERTa and its kin number positions from padding_idx + 1 on.
        embeddings = getattr(getattr(cast(Any, model).base_model, "embeddings", None), "position_embeddings", None)
        offset = getattr(embeddings, "padding_idx", None)
        limits.append(positions - (0 if offset is None else offset + 1))
    return min(limits)
