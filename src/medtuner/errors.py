"""What can go wrong in a way a user can mend, and how a stopped run announces itself.

Each error says what failed, where (file and line, document id, dotted key), what is valid and what to do next::

    raise DataError("notes.jsonl:12: span 4-900 ends outside the text (310 characters). Correct the offsets.")

The command line prints the text alone and exits with 2. Anything else that escapes is our own bug.
"""

import difflib
from collections.abc import Iterable


class MedtunerError(Exception):
    """A mistake the user can mend; its text is the whole message."""


class ConfigError(MedtunerError):
    """A configuration key is unknown, has the wrong type or an impossible value."""


class DataError(MedtunerError):
    """Input data is missing, malformed or empty."""


class ModelError(MedtunerError):
    """An encoder or a trained model cannot be found, loaded or fitted into memory."""


class RunError(MedtunerError):
    """A run folder cannot be used for what was asked."""


class RunInterrupted(Exception):
    """A run stopped at a step boundary after saving; the same command goes on from there (exit code 3)."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Say `` Did you mean 'x'?`` when a valid name is close to `name`, else nothing."""
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""
