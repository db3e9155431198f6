"""Batch scripts as text, without any cluster."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from medtuner import slurm
from medtuner.config import SlurmSection, build_config, seconds_of
from medtuner.distributed import first_host
from medtuner.errors import ConfigError, MedtunerError

GOLDEN = Path(__file__).parent / "golden"


def script_of(workdir: Path, **settings: object) -> slurm.JobScript:
    return slurm.JobScript(
        name="stage1",
        options=SlurmSection(**settings),  # type: ignore[arg-type]
        workdir=workdir,
        logs=workdir / "runs" / "stage1" / "logs",
        command=["/env/bin/python", "-m", "medtuner", "train", str(workdir / "config.toml")],
        settle=["/env/bin/python", "-m", "medtuner", "settle", str(workdir / "runs" / "stage1")],
        code=workdir / "code",
    )


def test_the_script_is_the_one_that_was_read_and_approved() -> None:
    settings: dict[str, object] = {"partition": "gpu", "account": "nlp", "nodes": 2, "gpus_per_node": "a100:4"}
    settings |= {"mem": "64G", "mail": "me@uni.example", "setup": ["module load cuda"], "extra": ["--exclusive"]}
    assert slurm.render(script_of(Path("/home/me/project"), **settings)) == (GOLDEN / "train_gpu.sh").read_text()


@pytest.mark.parametrize("name", ["plain", "two words", "it's", 'a "quote"', "$HOME `id` $(id)", "%j;ls", "-n"])
def test_hostile_folder_names_stay_words(name: str, tmp_path: Path) -> None:
    """bash itself reads the script: every word that was put in comes out again."""
    workdir = tmp_path / name
    (workdir / "runs" / "stage1" / "logs").mkdir(parents=True)
    job = script_of(workdir)
    tools = tmp_path / "tools"
    tools.mkdir()
    # `srun` and the settling command are only asked what words reach them.
    (tools / "srun").write_text('#!/bin/bash\nprintf "%s\\0" "$PWD" "$@" > "$WORDS"\n')
    (tools / "srun").chmod(0o755)
    script = slurm.render(
        slurm.JobScript(**{field: getattr(job, field) for field in job.__slots__} | {"settle": ["true"]})
    )
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "WORDS": str(tmp_path / "words")}
    environment |= {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "n1"}
    done = subprocess.run(["bash"], input=script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "words").read_text().split("\0")
    assert words[0] == str(workdir)
    assert f"--output={workdir}/runs/stage1/logs/attempt-0-rank-%t.out" in words
    assert str(workdir / "config.toml") in words


def test_a_line_break_is_refused() -> None:
    with pytest.raises(MedtunerError, match="no line break"):
        slurm.render(script_of(Path("/line\nbreak")))


def test_directives_quote_what_sbatch_would_split() -> None:
    lines = slurm.render(script_of(Path("/a b/100%"), constraint="a100&nvlink")).splitlines()
    output = next(line for line in lines if "--output" in line)
    assert shlex.split(output)[1:] == ["--output=/a b/100%%/runs/stage1/logs/slurm-%j.out"]


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("30", 1800), ("30:15", 1815), ("08:00:00", 28800), ("2-12", 216000), ("1-0:30", 88200), ("1-0:0:5", 86405)],
)
def test_time_limits_mean_what_sbatch_means(limit: str, seconds: int) -> None:
    assert seconds_of(limit) == seconds


def test_set_takes_a_time_limit_as_it_stands() -> None:
    config = build_config({}, overrides=["slurm.time=10:00:00", "slurm.mem=4000"], where="test")
    assert (config.slurm.time, config.slurm.mem) == ("10:00:00", "4000")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("slurm.time=00:02:00", "but a job is told to save slurm.signal_lead = 120 s before its end"),
        ("slurm.time=soon", "slurm.time = 'soon'"),
        ("slurm.gpus_per_node=a100", 'write a number, or "type:number"'),
        ("slurm.extra=['rm -rf']", "no sbatch option"),
        ("slurm.partitoin=gpu", "Did you mean 'partition'?"),
    ],
)
def test_bad_slurm_keys_are_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config({}, overrides=[setting], where="test")


def test_ranks_and_gpus_must_agree() -> None:
    with pytest.raises(ConfigError, match="one rank works on one GPU"):
        build_config({}, overrides=["slurm.gpus_per_node=4", "slurm.tasks_per_node=2"], where="test")


def test_a_machine_without_slurm_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MedtunerError, match="this machine has no Slurm"):
        slurm.submit("#!/bin/bash\n", workdir=tmp_path)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n[1-4]", "n1"), ("gpu[007-009,12],fat1", "gpu007"), ("a1,b2", "a1"), ("r[3,5]-ib", "r3-ib")],
)
def test_first_host(nodes: str, first: str) -> None:
    assert first_host(nodes) == first
