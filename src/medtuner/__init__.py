"""medtuner: entity recognisers for UMLS semantic types, trained on Slurm, scored honestly.

import medtuner

recognizer = medtuner.Recognizer.load("runs/quickstart")
document = recognizer.annotate("Aspirin lowers the risk of stroke.")
"""

from typing import TYPE_CHECKING, Any

from medtuner.documents import Document, Span
from medtuner.errors import MedtunerError

if TYPE_CHECKING:
    from medtuner.recognizer import Recognizer

__all__ = ["Document", "MedtunerError", "Recognizer", "Span"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the recogniser needs torch, and `medtuner --help` should not.
    if name == "Recognizer":
        from medtuner.recognizer import Recognizer

        return Recognizer
    raise AttributeError(f"module 'medtuner' has no attribute {name!r}")
