"""The first run: the starter encoder on embedded MedMentions, sized to train in about three minutes on two cores.

config = quickstart_config(output="runs", overrides=["train.epochs=1"])
"""

from collections.abc import Sequence

from medtuner.config import Config, build_config

EXAMPLE = (
    "Patients treated with metformin for type 2 diabetes showed lower blood glucose, and magnetic resonance imaging of "
    "the liver confirmed the effect in mice."
)


def quickstart_config(*, output: str, overrides: Sequence[str]) -> Config:
    """Return the configuration of the quickstart run with overrides applied.

    The first 80% of the embedded training sentences are cut off as in stage 1; of each block the first sentences are
    used, so that no abstract stands on two sides.
    """
    table = {
        "run": {"name": "quickstart", "output": output},
        "data": {
            "train": "medmentions-zs",
            "split": "block",
            "train_limit": 5000,
            "dev_limit": 500,
            "test_limit": 1500,
        },
        "train": {"epochs": 3},
    }
    return build_config(table, overrides=overrides, where="quickstart")
