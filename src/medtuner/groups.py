"""Many runs from one configuration: seeds and swept keys, each a run of its own below one group folder.

    members = expand(config, seeds=parse_seeds("1-5"), sweeps=parse_sweeps(["train.lr=1e-4,5e-4"]), build=build)
    member, its_config = members[0]
    member.name                          # "train.lr-1e-4_seed-1", the run folder is runs/stage1/train.lr-1e-4_seed-1

A group folder holds `group.json` and no `config.toml`: a folder is a run or a group, never both.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from medtuner.config import Config
from medtuner.errors import ConfigError, RunError
from medtuner.runs import read_json, run_folder, write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One run of a group: its folder's name, its seed and the swept keys with their values as written."""

    name: str
    seed: int
    settings: Mapping[str, str]

    @property
    def variant(self) -> str:
        """The settings without the seed, as one line; "" where nothing but the seed varies."""
        return " ".join(f"{key}={value}" for key, value in self.settings.items())


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of ``1-5`` or ``1,3,7-9``."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not found or int(found[2] or found[1]) < int(found[1]):
            raise ConfigError(f"--seeds {text}: {part.strip()!r} is no seed and no range; write 1-5 or 1,3,7-9.")
        seeds += range(int(found[1]), int(found[2] or found[1]) + 1)
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds {text}: a seed stands twice.")
    return seeds


def parse_sweeps(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return ``{"train.lr": ["1e-4", "5e-4"]}`` of ``["train.lr=1e-4,5e-4"]``."""
    sweeps: dict[str, list[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        key = key.strip()
        words = [value.strip() for value in values.split(",")]
        if not equals or not all(words) or len(set(words)) < len(words):
            raise ConfigError(
                f"--sweep {text}: write it as section.key=value,value with different values, for example "
                "--sweep train.lr=1e-4,5e-4."
            )
        if key == "run.seed":
            raise ConfigError(f"--sweep {text}: use --seeds.")
        if key in sweeps or key.partition(".")[0] in ("run", "slurm", "notify"):
            why = (
                "it stands twice" if key in sweeps else "one array has one job script; only what a run learns can vary"
            )
            raise ConfigError(f"--sweep {text}: {key} cannot be swept: {why}.")
        sweeps[key] = words
    return sweeps


def expand(
    config: Config,
    *,
    seeds: Sequence[int],
    sweeps: Mapping[str, Sequence[str]],
    build: Callable[[Sequence[str]], Config],
) -> list[tuple[Member, Config]]:
    """Return every combination of the sweeps with every seed, each with its checked configuration.

    `build` makes a configuration of further ``section.key=value`` overrides.
    """
    group = run_folder(config)
    if (group / "config.toml").exists():
        raise RunError(f"{group} is a single run. Give the group a name of its own: --set run.name=NAME.")
    members: list[tuple[Member, Config]] = []
    for values in itertools.product(*sweeps.values()):
        settings = dict(zip(sweeps, values, strict=True))
        swept = build([f"{key}={value}" for key, value in settings.items()])
        for seed in seeds or [config.run.seed]:
            words = [f"{key}-{re.sub(r'[^A-Za-z0-9.+-]', '-', value)}" for key, value in settings.items()]
            member = Member(name="_".join([*words, f"seed-{seed}"]), seed=seed, settings=settings)
            run = swept.run.model_copy(update={"name": member.name, "output": str(group), "seed": seed})
            members.append((member, swept.model_copy(update={"run": run})))
    names = [member.name for member, _ in members]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(
            f"--sweep: two combinations get the same folder name {twice!r}; give values that differ more."
        )
    return members


def is_group(folder: Path) -> bool:
    """Say whether a folder holds the runs of a group."""
    return (folder / "group.json").exists()


def read_members(group: Path) -> list[Member]:
    """Return the members of a group in the order they were made."""
    if not is_group(group):
        raise RunError(f"{group}: no group of runs here (no group.json); `medtuner submit train --seeds` makes one.")
    return [Member(**row) for row in read_json(group / "group.json")["members"]]


def write_members(group: Path, members: Sequence[Member]) -> None:
    """Add members to a group; those it had stay."""
    known = read_members(group) if is_group(group) else []
    names = {member.name for member in known}
    rows = [asdict(member) for member in (*known, *(new for new in members if new.name not in names))]
    write_json(group / "group.json", {"members": rows})


def expand_groups(folders: Sequence[Path]) -> list[Path]:
    """Put the folders of a group's runs in the place of the group."""
    return [
        run
        for folder in folders
        for run in ([folder / member.name for member in read_members(folder)] if is_group(folder) else [folder])
    ]


def run_label(folder: Path) -> str:
    """Return the name to show for a run; one of a group is shown with its group."""
    return f"{folder.parent.name}/{folder.name}" if is_group(folder.parent) else folder.name
