"""Messages about a run to any channel that the Apprise library knows: Discord, Slack, Teams, Matrix, mail, ...

    export MEDTUNER_NOTIFY=https://discord.com/api/webhooks/...     # or any URL of https://github.com/caronc/apprise
    announce(folder, config.notify, "finished")

A message is first a file in ``RUN/outbox``, then sent, then moved to ``RUN/outbox/sent``. What a node without internet
cannot send leaves from the login node, with the next `medtuner status`, `watch` or `notify`. The address is a secret: it
stays in the environment and is never written. A message holds figures and paths, never text of a document.
"""

import os
import socket
import time
from pathlib import Path

from medtuner.attempts import AttemptLog, goodput
from medtuner.config import Event, NotifySection, load_config
from medtuner.errors import MedtunerError
from medtuner.runs import read_json, timestamp, write_json

_TAKEN_S = 600


def announce(folder: Path, options: NotifySection, event: Event) -> str:
    """Tell of a run's event, once for each attempt, where it is asked for and an address is set.

    Returns what went wrong, "" when nothing did: a message never ends a run.
    """
    if event not in options.on or not os.environ.get(options.url_env):
        return ""
    outbox = folder / "outbox"
    try:
        rows = AttemptLog(folder).rows()
        name = f"attempt-{rows[-1].attempt if rows else 0}-{event}.json"
        if not any(outbox.rglob(f"*{name}*")):
            write_json(outbox / name, compose(folder, event) | {"time": timestamp()})
        _, waiting = deliver(folder, options)
    except (MedtunerError, OSError) as error:
        return f"no message sent: {error}"
    return f"a message waits in {outbox}; `medtuner notify` sends it where there is internet" if waiting else ""


def compose(folder: Path, event: str) -> dict[str, str]:
    """Return title and body of the message about a run."""
    lines: list[str] = []
    if (folder / "scores.json").exists():
        scores = read_json(folder / "scores.json")
        micro, macro = scores["strict"]["micro"], scores["strict"]["macro"]
        interval = f" ({100 * micro['ci95'][0]:.1f}-{100 * micro['ci95'][1]:.1f})" if micro["ci95"] else ""
        documents = f"{scores['protocol']['documents']:,} test documents"
        lines.append(f"strict F1: micro {100 * micro['f1']:.1f}{interval}, macro {100 * macro['f1']:.1f}; {documents}")
    manifest = read_json(folder / "manifest.json") if (folder / "manifest.json").exists() else {}
    if manifest.get("reason"):
        lines.append(str(manifest["reason"]))
    if rows := AttemptLog(folder).rows():
        attempts = f"{len(rows)} attempt{'s' * (len(rows) > 1)}"
        lines.append(f"step {rows[-1].last_step}, {attempts}, {100 * goodput(rows):.0f}% of the time productive")
    lines.append(f"{socket.gethostname()}:{folder.resolve()}")
    return {"title": f"medtuner: {folder.name} {event}", "body": "\n".join(lines)}


def deliver(folder: Path, options: NotifySection | None = None) -> tuple[int, int]:
    """Send what waits in a run's outbox; return how many messages left and how many stay."""
    outbox = folder / "outbox"
    if not outbox.exists():
        return 0, 0
    _put_back(outbox)
    waiting = sorted(outbox.glob("attempt-*.json"))
    url = os.environ.get((options or _options(folder)).url_env, "")
    sent = 0
    for path in waiting if url else []:
        taken = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}")
        try:
            path.rename(taken)  # of two processes that see a message one takes it
        except FileNotFoundError:
            continue
        os.utime(taken)
        message = read_json(taken)
        if not send(url, title=message["title"], body=message["body"]):
            taken.rename(path)
            break
        (outbox / "sent").mkdir(exist_ok=True)
        taken.rename(outbox / "sent" / path.name)
        sent += 1
    return sent, len(list(outbox.glob("attempt-*.json")))


def _options(folder: Path) -> NotifySection:
    """Return what the run's last submission says of messages, or the run itself."""
    submitted = folder / "submitted" / "config.toml"
    return load_config(submitted if submitted.exists() else folder / "config.toml").notify


def _put_back(outbox: Path) -> None:
    """Put messages back that a process took and, being killed, never sent."""
    for taken in outbox.glob(".attempt-*.json.*"):
        if time.time() - taken.stat().st_mtime > _TAKEN_S:
            taken.rename(outbox / f"{taken.name[1:].partition('.json')[0]}.json")


def send(url: str, *, title: str, body: str) -> bool:
    """Send one message and say whether it was taken."""
    try:
        import apprise
    except ImportError:
        raise MedtunerError('messages need the package apprise. Run: pip install "medtuner[notify]"') from None
    channel = apprise.Apprise()
    if not channel.add(url):
        raise MedtunerError(
            "the address for messages is none that Apprise knows (it is not shown, being a secret). Examples: a Discord "
            "webhook's https address, slack://..., mailto://...; all: https://github.com/caronc/apprise"
        )
    return bool(channel.notify(title=title, body=body))
