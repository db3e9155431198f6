"""A real Slurm cluster on this one machine: four nodes, three partitions, preemption, for tests and for trying out.

    python scripts/slurm_cluster.py up                  # installs slurm-wlm and munge where they are missing
    eval "$(python scripts/slurm_cluster.py env)"       # this shell's sbatch, squeue and medtuner now speak to it
    python scripts/slurm_cluster.py status
    python scripts/slurm_cluster.py down

Everything lies in one folder (`--root`): configuration, own munge key and socket, state, logs. Ports are free ones.
Partitions: `main` (preempted jobs are requeued), `grace` (the same after 15 seconds of grace) and `urgent` (preempts
both). Only what this script started is stopped, by its pid files. Needs root on Debian or Ubuntu; where it cannot run it
says why and exits with 3.
"""

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

NODES = ("n1", "n2", "n3", "n4")
DEFAULT_ROOT = Path("/tmp/medtuner-slurm")
HOSTS, MARK = Path("/etc/hosts"), "# medtuner test cluster"
CANNOT = 3


class CannotRun(Exception):
    """This machine cannot run the cluster."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["up", "down", "status", "env"])
    parser.add_argument(
        "--root", type=Path, default=DEFAULT_ROOT, help=f"the cluster's folder (default {DEFAULT_ROOT})"
    )
    parser.add_argument("--accounting", action="store_true", help="slurmdbd and MariaDB as well, so that sacct works")
    parser.add_argument("--kill-wait", type=int, default=20, help="seconds between TERM and KILL (default 20)")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    try:
        if arguments.action == "up":
            up(root, accounting=arguments.accounting, kill_wait=arguments.kill_wait)
        elif arguments.action == "down":
            down(root)
        elif arguments.action == "env":
            print(f"export SLURM_CONF={root}/slurm.conf")
        else:
            status(root)
    except CannotRun as reason:
        print(f"slurm_cluster: {reason}", file=sys.stderr)
        if arguments.action == "up":
            for log in sorted(root.glob("log/*.log")):
                print(f"{log}: {''.join(log.read_text().splitlines(keepends=True)[-3:])}", file=sys.stderr)
            down(root)
        sys.exit(CANNOT)


def up(root: Path, *, accounting: bool, kill_wait: int) -> None:
    """Install what is missing, start every daemon and wait until all nodes are idle."""
    install(accounting=accounting)
    if is_up(root):
        print(f"already up: {root}")
        return
    down(root)
    for name in ("state", "spool", "log", "run", "munge"):
        (root / name).mkdir(parents=True, exist_ok=True)
    add_hosts()
    start_munge(root)
    if accounting:
        start_accounting(root)
    write_configuration(root, accounting=accounting, kill_wait=kill_wait)
    environment = os.environ | {"SLURM_CONF": f"{root}/slurm.conf"}
    if accounting:
        wait_for(lambda: answers(["sacctmgr", "-n", "show", "cluster"], environment), "slurmdbd")
        run(["sacctmgr", "-i", "add", "cluster", "medtuner"], environment)
    run(["slurmctld"], environment)
    for node in NODES:
        run(["slurmd", "-N", node], environment)
    wait_until_idle(root, environment)
    print(f'up: {root}\neval "$(python {Path(__file__).name} env --root {root})"')


def install(*, accounting: bool) -> None:
    """Install Debian's packages where they are missing."""
    if os.geteuid() != 0:
        raise CannotRun("needs root (slurmd starts jobs as their users).")
    packages = {"slurm-wlm": "slurmctld", "munge": "munged"}
    if accounting:
        packages |= {"slurmdbd": "slurmdbd", "mariadb-server": "mariadbd"}
    missing = [package for package, program in packages.items() if not shutil.which(program, path=search_path())]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise CannotRun(f"{', '.join(missing)} not installed, and there is no apt-get to install them with.")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", *missing]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotRun(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")


def search_path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def run(command: list[str], environment: dict[str, str], *, user: str | None = None) -> None:
    environment = {**environment, "PATH": search_path()}
    # Output goes nowhere: a daemon that keeps a pipe open would keep its caller waiting.
    done = subprocess.run(
        command, env=environment, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, user=user
    )
    if done.returncode:
        raise CannotRun(f"{' '.join(command)} failed with {done.returncode}.")


def answers(command: list[str], environment: dict[str, str]) -> bool:
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def add_hosts() -> None:
    """Make the nodes' names resolve, as they do on a real cluster."""
    lines = HOSTS.read_text().splitlines()
    if not any(MARK in line for line in lines):
        HOSTS.write_text("\n".join([*lines, f"127.0.0.1 {' '.join(NODES)} {MARK}"]) + "\n")


def start_munge(root: Path) -> None:
    folder = root / "munge"
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    for path in (folder, key):
        shutil.chown(path, "munge", "munge")
    folder.chmod(0o755)
    options = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid"}
    options |= {"log-file": "munged.log", "seed-file": "munge.seed"}
    command = ["munged", "--num-threads=2", "--force", *[f"--{name}={folder / file}" for name, file in options.items()]]
    run(command, dict(os.environ), user="munge")


def start_accounting(root: Path) -> None:
    """Start MariaDB on a socket of its own, and slurmdbd."""
    data, sock = root / "mariadb", root / "run" / "mariadb.socket"
    data.mkdir(exist_ok=True)
    common = ["--no-defaults", f"--datadir={data}", "--user=root"]
    run(["mariadb-install-db", *common, "--skip-test-db"], dict(os.environ))
    (port,) = free_ports(1)
    command = ["mariadbd", *common, f"--socket={sock}", f"--port={port}", "--bind-address=127.0.0.1"]
    command += [f"--pid-file={root}/run/mariadbd.pid", f"--log-error={root}/log/mariadbd.log"]
    subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for(sock.exists, "MariaDB's socket")
    statements = (
        "CREATE USER 'slurm'@'localhost' IDENTIFIED BY 'slurm'; CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';"
    )
    statements += "GRANT ALL ON slurm_acct.* TO 'slurm'@'localhost'; GRANT ALL ON slurm_acct.* TO 'slurm'@'127.0.0.1';"
    subprocess.run(["mariadb", f"--socket={sock}", "-u", "root", "-e", statements], check=True)
    (dbd_port,) = free_ports(1)
    configuration = root / "slurmdbd.conf"
    configuration.write_text(
        f"DbdHost=localhost\nDbdPort={dbd_port}\nSlurmUser=root\nAuthType=auth/munge\n"
        f"AuthInfo=socket={root}/munge/munge.socket\nStorageType=accounting_storage/mysql\nStorageHost=127.0.0.1\n"
        f"StoragePort={port}\nStorageUser=slurm\nStoragePass=slurm\nStorageLoc=slurm_acct\n"
        f"LogFile={root}/log/slurmdbd.log\nPidFile={root}/run/slurmdbd.pid\n"
    )
    configuration.chmod(0o600)
    (root / "slurmdbd.port").write_text(str(dbd_port))
    run(["slurmdbd"], os.environ | {"SLURM_CONF": f"{root}/slurm.conf"})


def write_configuration(root: Path, *, accounting: bool, kill_wait: int) -> None:
    host = socket.gethostname()
    controller, *ports = free_ports(1 + len(NODES))
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=4000"
        for node, port in zip(NODES, ports, strict=True)
    )
    storage = "AccountingStorageType=accounting_storage/none"
    if accounting:
        port = (root / "slurmdbd.port").read_text()
        storage = "AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"
        storage += (
            f"AccountingStoragePort={port}\nAccountingStorageUser=root\nAccountingStoragePass={root}/munge/munge.socket"
        )
        storage += "\nAccountingStorageEnforce=associations,limits,qos"
    (root / "slurm.conf").write_text(
        f"""ClusterName=medtuner
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge/munge.socket,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd-%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=0,batch_sched_delay=0,bf_interval=2
KillWait={kill_wait}
SlurmdTimeout=20
MinJobAge=300
MaxArraySize=1001
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
EnforcePartLimits=ALL
{storage}
{nodes}
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 DefMemPerCPU=500 MaxTime=1-00:00:00 State=UP
PartitionName=grace Nodes=ALL PriorityTier=1 GraceTime=15 DefMemPerCPU=500 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF DefMemPerCPU=500 State=UP
"""
    )
    (root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")


def wait_for(condition, what: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise CannotRun(f"waited {seconds:.0f} s for {what} in vain.")
        time.sleep(0.1)


def wait_until_idle(root: Path, environment: dict[str, str]) -> None:
    def idle() -> bool:
        done = subprocess.run(
            ["sinfo", "-h", "-N", "-p", "main", "-o", "%T"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.split() == ["idle"] * len(NODES)

    wait_for(idle, f"idle nodes (logs: {root}/log)")


def pids(root: Path) -> list[int]:
    """Return the processes whose pid files lie here and that still are what the file says."""
    found: list[int] = []
    for path in [*(root / "run").glob("*.pid"), *(root / "munge").glob("*.pid")]:
        with contextlib.suppress(ValueError, OSError):
            pid = int(path.read_text())
            if path.stem.partition("-")[0] in Path(f"/proc/{pid}/comm").read_text():
                found.append(pid)
    return found


def is_up(root: Path) -> bool:
    return len(pids(root)) >= len(NODES) + 2


def down(root: Path) -> None:
    """Stop what this cluster started, jobs first, and remove its folder."""
    if not root.exists():
        return
    if (root / "slurm.conf").exists() and pids(root):
        environment = os.environ | {"SLURM_CONF": f"{root}/slurm.conf"}
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["scancel", "--state=PENDING", "--user=root"], env=environment, check=False, timeout=20)
            subprocess.run(
                ["scancel", "--signal=KILL", "--full", "--user=root"], env=environment, check=False, timeout=20
            )
    stepds = [int(pid) for pid in pgrep(f"slurmstepd.*{root}")]
    doomed = pids(root)
    for pid in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 15
    while any(Path(f"/proc/{pid}").exists() for pid in doomed) and time.monotonic() < end:
        time.sleep(0.1)
    for pid in [*doomed, *stepds, *job_processes(root)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(root, ignore_errors=True)
    if HOSTS.exists() and MARK in (text := HOSTS.read_text()):
        HOSTS.write_text("".join(line for line in text.splitlines(keepends=True) if MARK not in line))


def job_processes(root: Path) -> list[int]:
    """Return the processes of this cluster's jobs, known by their environment: they outlive a step daemon that is gone."""
    mark = f"SLURM_CONF={root}/slurm.conf".encode()
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (process / "environ").read_bytes().split(b"\0")
            if mark in variables and any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables):
                found.append(int(process.name))
    return found


def pgrep(pattern: str) -> list[str]:
    return subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False).stdout.split()


def status(root: Path) -> None:
    if not is_up(root):
        print(f"down: {root}")
        return
    environment = os.environ | {"SLURM_CONF": f"{root}/slurm.conf"}
    subprocess.run(["sinfo"], env=environment, check=False)
    subprocess.run(["squeue"], env=environment, check=False)


if __name__ == "__main__":
    main()
