"""The typed configuration of a run: TOML in, overrides, checks, TOML out.

    config = load_config(Path("configs/stage1.toml"), overrides=["train.epochs=2", "run.seed=7"])
    config.train.epochs          # 2

Every key has a default, every key is listed in `configs/stage1.toml` with its meaning, and an unknown key or a value of
the wrong type is refused with its dotted name. Nothing is interpolated, inherited or executed.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medtuner.errors import ConfigError, nearest

# Values of the design that no code serves yet: refused by name, never accepted and ignored.
_NOT_BUILT_VALUES: Mapping[str, tuple[object, ...]] = {
    "model.head": ("open",),
    "run.private": (True,),
    "labels.unseen": ("ancestor", "nearest", "group"),
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RunSection(_Section):
    """Where the run folder is and what seeds it."""

    name: str = Field(default="stage1", pattern=r"^[^/\\\x00]+$")
    output: str = "runs"
    seed: int = Field(default=13, ge=0)
    private: bool = False


class DataSection(_Section):
    """Which documents train, tune and test."""

    train: str = "medmentions-zs"
    dev: str = ""
    test: str = ""
    split: Literal["given", "block"] = "block"
    train_limit: int = Field(default=0, ge=0)
    dev_limit: int = Field(default=0, ge=0)
    test_limit: int = Field(default=0, ge=0)
    format: str = ""
    language: str = ""
    on_error: Literal["refuse", "skip", "repair"] = "refuse"
    orphans: Literal["begin", "drop", "refuse"] = "begin"
    max_lost: float = Field(default=0.02, ge=0, le=1)


class LabelsSection(_Section):
    """The label space and what happens to labels it never saw."""

    space: str | list[str] = "train"
    unseen: Literal["abstain", "ancestor", "nearest", "group"] = "abstain"
    overlap: Literal["longest", "shortest", "priority"] = "longest"
    priority: list[str] = []
    several: Literal["first", "frequent", "specific"] = "first"
    discontinuous: Literal["hull", "first", "drop"] = "hull"


class ModelSection(_Section):
    """The encoder, its head and how much text it sees at once."""

    encoder: str = "starter"
    head: Literal["closed", "open"] = "closed"
    init_from: str = ""
    max_tokens: int = Field(default=512, ge=8)
    overlap: int = Field(default=64, ge=0)
    dropout: float = Field(default=0.2, ge=0, le=0.9)
    continuation: float = Field(default=0.3, gt=0, le=1)


class TrainSection(_Section):
    """The training loop."""

    epochs: int = Field(default=6, ge=1)
    tokens_per_batch: int = Field(default=1024, ge=1)
    tokens_per_rank: int = Field(default=0, ge=0)
    lr: float = Field(default=5e-4, gt=0, le=1)
    head_lr: float = Field(default=2e-3, gt=0, le=1)
    layer_decay: float = Field(default=0.85, gt=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0, le=1)
    clip: float = Field(default=1.0, ge=0)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    evaluate_every: int = Field(default=0, ge=0)
    patience: int = Field(default=0, ge=0)
    checkpoint_every: int = Field(default=200, ge=1)
    keep_checkpoints: int = Field(default=2, ge=2)
    log_every: int = Field(default=10, ge=1)
    unannotated: Literal["unknown", "outside"] = "unknown"


class EvaluateSection(_Section):
    """How scores are computed."""

    bootstrap: int = Field(default=1000, ge=0)
    tokens_per_batch: int = Field(default=8192, ge=1)


class SlurmSection(_Section):
    """What a job asks of Slurm; may change between attempts of one run."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    time: str = Field(default="08:00:00", pattern=r"^(\d+-\d{1,2}(:\d{1,2}(:\d{1,2})?)?|\d+(:\d{1,2}(:\d{1,2})?)?)$")
    nodes: int = Field(default=1, ge=1)
    gpus_per_node: int | str = 0
    tasks_per_node: int = Field(default=0, ge=0)
    cpus_per_task: int = Field(default=1, ge=1)
    mem: str = ""
    constraint: str = ""
    exclude: str = ""
    dependency: str = ""
    mail: str = ""
    requeue: bool = True
    max_restarts: int = Field(default=100, ge=0)
    max_stalled: int = Field(default=3, ge=1)
    signal_lead: int = Field(default=120, ge=10)
    max_running: int = Field(default=10, ge=0)
    environment: Literal["current", "venv"] = "current"
    container: str = ""
    setup: list[str] = []
    extra: list[str] = []


Event = Literal["finished", "failed", "requeued"]


class NotifySection(_Section):
    """When a message leaves, and which environment variable holds its address; may change between attempts."""

    on: list[Event] = ["finished", "failed"]
    url_env: str = Field(default="MEDTUNER_NOTIFY", pattern=r"^[A-Za-z_]\w*$")


class Config(_Section):
    """A whole run, every default filled in."""

    run: RunSection = RunSection()
    data: DataSection = DataSection()
    labels: LabelsSection = LabelsSection()
    model: ModelSection = ModelSection()
    train: TrainSection = TrainSection()
    evaluate: EvaluateSection = EvaluateSection()
    slurm: SlurmSection = SlurmSection()
    notify: NotifySection = NotifySection()


def load_config(path: Path, *, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file, apply ``section.key=value`` overrides and check everything."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file (looked from {Path.cwd()}).")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text. Save the configuration as UTF-8.") from None
    return build_config(table, overrides=overrides, where=str(path))


def build_config(table: Mapping[str, Any], *, overrides: Sequence[str] = (), where: str) -> Config:
    """Check a nested table with overrides applied; `where` names the source in errors."""
    merged = {name: dict(keys) if isinstance(keys, Mapping) else keys for name, keys in table.items()}
    _refuse_unknown(merged, where)
    for override in overrides:
        _apply_override(merged, override)
    if overrides:
        where = f"{where} with --set"
        _refuse_unknown(merged, where)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(dict(fault), where) for fault in error.errors())) from None
    _check_combinations(config, where)
    return config


def flatten(config: Config) -> dict[str, object]:
    """Return ``{"section.key": value}`` for every key."""
    sections = cast(dict[str, dict[str, object]], config.model_dump())
    return {f"{name}.{key}": value for name, keys in sections.items() for key, value in keys.items()}


def config_to_toml(config: Config) -> str:
    """Return the configuration as TOML text that `load_config` reads back to an equal one."""
    return tomli_w.dumps(config.model_dump())


def _refuse_unknown(table: Mapping[str, Any], where: str) -> None:
    valid = Config.model_fields
    for name, keys in table.items():
        if name not in valid:
            raise ConfigError(f"{where}: unknown section [{name}].{nearest(name, valid)} Valid: {_sections()}.")
        if not isinstance(keys, dict):
            raise ConfigError(f"{where}: {name} is a section: write [{name}] and its keys below it.")
        fields = _fields(name)
        for key in cast(dict[str, Any], keys):
            if key not in fields:
                raise ConfigError(
                    f"{where}: unknown key {name}.{key}.{nearest(key, fields)} Valid in [{name}]: {', '.join(fields)}."
                )


def _sections() -> str:
    return " ".join(f"[{name}]" for name in Config.model_fields)


def _fields(section: str) -> Mapping[str, Any]:
    annotation = Config.model_fields[section].annotation
    assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation.model_fields


def _apply_override(table: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    section, dot, key = dotted.strip().partition(".")
    if not equals or not dot:
        raise ConfigError(f"--set {override}: write it as section.key=value, for example --set train.epochs=2.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string, so that --set data.train=notes.jsonl needs no inner quotes
    if section in Config.model_fields and getattr(_fields(section).get(key), "annotation", None) is str:
        value = value if isinstance(value, str) else text  # TOML takes 08:00:00 for a time of day
    keys = table.setdefault(section, {})
    if isinstance(keys, dict):
        cast(dict[str, Any], keys)[key] = value


def _explain(fault: dict[str, Any], where: str) -> str:
    section, *rest = (str(part) for part in fault["loc"])
    key = rest[0] if rest else ""
    name = f"{section}.{key}" if key else section
    default = _fields(section)[key].default if key else ""
    message = str(fault["msg"]).replace("Input should be", "it must be")
    return f"{where}: {name} = {fault['input']!r}: {message} (default {default!r})."


def _check_combinations(config: Config, where: str) -> None:
    values = flatten(config)
    for name, unbuilt in _NOT_BUILT_VALUES.items():
        if values[name] in unbuilt:
            raise ConfigError(f"{where}: {name} = {values[name]!r} is not built yet; the default works today.")
    _check_slurm(config.slurm, where)
    if (config.labels.overlap == "priority") != bool(config.labels.priority):
        raise ConfigError(
            f'{where}: labels.overlap = "priority" and labels.priority, the list of types that win, need each other.'
        )
    if config.run.name in (".", ".."):
        raise ConfigError(f"{where}: run.name = {config.run.name!r} is no folder name.")
    if 2 * config.model.overlap >= config.model.max_tokens:
        raise ConfigError(
            f"{where}: model.overlap = {config.model.overlap} must be under half of model.max_tokens = "
            f"{config.model.max_tokens}, or windows would not move on."
        )
    if config.data.split == "block" and (config.data.dev or config.data.test):
        raise ConfigError(
            f'{where}: data.split = "block" cuts dev and test out of data.train; remove data.dev and data.test, or '
            'write data.split = "given".'
        )


def _check_slurm(slurm: SlurmSection, where: str) -> None:
    gpus = num_gpus(slurm.gpus_per_node, where)
    if gpus and slurm.tasks_per_node not in (0, gpus):
        raise ConfigError(
            f"{where}: slurm.tasks_per_node = {slurm.tasks_per_node} but slurm.gpus_per_node = {slurm.gpus_per_node!r}: "
            "one rank works on one GPU. Leave slurm.tasks_per_node = 0, which starts as many ranks as there are GPUs."
        )
    limit = seconds_of(slurm.time)
    if limit < slurm.signal_lead + 60:
        raise ConfigError(
            f"{where}: slurm.time = {slurm.time!r} is {limit} s, but a job is told to save slurm.signal_lead = "
            f"{slurm.signal_lead} s before its end and Slurm may be 60 s early. Ask for at least "
            f"{slurm.signal_lead + 60} s, or lower slurm.signal_lead."
        )
    if slurm.container and slurm.environment == "venv":
        raise ConfigError(
            f'{where}: slurm.container = {slurm.container!r} brings its own Python; remove slurm.environment = "venv".'
        )
    for option in slurm.extra:
        if not option.startswith("-") or "\n" in option:
            raise ConfigError(f"{where}: slurm.extra: {option!r} is no sbatch option; write it as '--name=value'.")


def num_gpus(gpus_per_node: int | str, where: str = "slurm") -> int:
    """Return the number in ``4`` or ``"a100:4"``."""
    number = str(gpus_per_node).rpartition(":")[2]
    if not number.isdecimal():
        raise ConfigError(
            f'{where}: slurm.gpus_per_node = {gpus_per_node!r}: write a number, or "type:number" ("a100:4").'
        )
    return int(number)


def seconds_of(limit: str) -> int:
    """Return the seconds of a Slurm time limit: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S (sbatch's manual, --time)."""
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, [*parts, 0][:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
