"""Batch scripts as text, without any cluster."""

import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from medtuner import slurm
from medtuner.batch_script import JobScript, Wheels, render
from medtuner.config import SlurmSection, build_config, seconds_of
from medtuner.distributed import first_host
from medtuner.errors import ConfigError, MedtunerError

GOLDEN = Path(__file__).parent / "golden"


def script_of(workdir: Path, *, python: str = "/env/bin/python", **settings: object) -> JobScript:
    return JobScript(
        name="stage1",
        options=SlurmSection(**settings),  # type: ignore[arg-type]
        workdir=workdir,
        folder=workdir / "runs" / "stage1",
        python=python,
        command=["train"],
        settle="settle",
        code=workdir / "runs" / "stage1" / "submitted" / "code",
    )


GPU: dict[str, object] = {"partition": "gpu", "account": "nlp", "nodes": 2, "gpus_per_node": "a100:4", "mem": "64G"}
PROJECT = Path("/home/me/project")


@pytest.mark.parametrize("name", ["train_gpu", "array", "venv", "container"])
def test_the_scripts_are_those_that_were_read_and_approved(name: str) -> None:
    scripts = {
        "train_gpu": script_of(
            PROJECT, **GPU, mail="me@uni.example", setup=["module load cuda"], extra=["--exclusive"]
        ),
        "array": replace(script_of(PROJECT, max_running=4), members=["seed-1", "seed-2", "it's-3"]),
        "venv": replace(
            script_of(PROJECT, environment="venv"),
            wheels=Wheels(folder=Path("/scratch/me/wheels/cp311-0123"), python="/usr/bin/python3"),
        ),
        "container": replace(
            script_of(PROJECT, container="my image.sif", gpus_per_node=1),
            exports={"HF_HOME": "/scratch/me/hf"},
            binds=[PROJECT, Path("/scratch/me/hf")],
        ),
    }
    assert render(scripts[name]) == (GOLDEN / f"{name}.sh").read_text()


@pytest.mark.parametrize("name", ["train_gpu", "array", "venv", "container"])
def test_bash_reads_every_script(name: str) -> None:
    done = subprocess.run(["bash", "-n", GOLDEN / f"{name}.sh"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


HOSTILE = ["plain", "two words", "it's", 'a "quote"', "$HOME `id` $(id)", "%j;ls", "-n", "*"]


def run_script(job: JobScript, tmp_path: Path, **variables: str) -> list[str]:
    """Let bash run a script whose `srun` is only asked what words reach it, and return those."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "srun").write_text('#!/bin/bash\nprintf "%s\\0" "$PWD" "$@" > "$WORDS"\n')
    (tools / "python").write_text("#!/bin/bash\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "WORDS": str(tmp_path / "words")}
    environment |= {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "n1"} | variables
    done = subprocess.run(["bash"], input=render(job), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (tmp_path / "words").read_text().split("\0")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_folder_names_stay_words(name: str, tmp_path: Path) -> None:
    """bash itself reads the script: every word that was put in comes out again."""
    workdir = tmp_path / name
    run = workdir / "runs" / "stage1"
    (run / "logs").mkdir(parents=True)
    words = run_script(script_of(workdir, python=str(tmp_path / "tools" / "python")), tmp_path)
    assert words[0] == str(workdir)
    assert f"--output={str(run).replace('%', '%%')}/logs/attempt-0-rank-%t.out" in words
    assert words[words.index("train") + 1] == f"{run}/submitted/config.toml"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_member_names_stay_words(name: str, tmp_path: Path) -> None:
    member = tmp_path / "runs" / "stage1" / name
    (member / "logs").mkdir(parents=True)
    job = replace(script_of(tmp_path, python=str(tmp_path / "tools" / "python")), members=["other", name])
    words = run_script(job, tmp_path, SLURM_ARRAY_JOB_ID="1", SLURM_ARRAY_TASK_ID="1")
    assert words[words.index("train") + 1] == f"{member}/submitted/config.toml"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_words_in_a_container(name: str, tmp_path: Path) -> None:
    workdir = tmp_path / name
    (workdir / "runs" / "stage1" / "logs").mkdir(parents=True)
    job = script_of(workdir, python=str(tmp_path / "tools" / "python"), container=f"{name}.sif")
    job = replace(job, binds=[workdir])
    words = run_script(job, tmp_path)
    assert words[words.index("apptainer") + 1] == "exec"
    assert words[words.index(f"{name}.sif") + 1] == "python3"
    assert str(workdir) in words[words.index("--bind") :]


def test_a_line_break_is_refused() -> None:
    with pytest.raises(MedtunerError, match="no line break"):
        render(script_of(Path("/line\nbreak")))


def test_directives_quote_what_sbatch_would_split() -> None:
    lines = render(script_of(Path("/a b/100%"), constraint="a100&nvlink")).splitlines()
    output = next(line for line in lines if "--output" in line)
    assert shlex.split(output)[1:] == ["--output=/a b/100%%/runs/stage1/logs/slurm-%j.out"]


def test_a_path_that_apptainer_would_split_is_refused() -> None:
    with pytest.raises(MedtunerError, match="Apptainer takes no path"):
        render(replace(script_of(PROJECT, container="x.sif"), binds=[Path("/a:b")]))


def test_a_container_brings_its_own_python() -> None:
    with pytest.raises(ConfigError, match="brings its own Python"):
        build_config({}, overrides=["slurm.container=x.sif", "slurm.environment=venv"], where="test")


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
