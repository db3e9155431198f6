"""Messages about a run to any channel that the Apprise library knows: Discord, Slack, Teams, Matrix, mail, ...

    export MEDTUNER_NOTIFY=https://discord.com/api/webhooks/...     # or any URL of https://github.com/caronc/apprise
    announce(folder, config.notify, "finished")

A message is first a file in ``RUN/outbox``, then sent, then moved to ``RUN/outbox/sent``. What a node without internet
cannot send leaves from the login node, with the next `medtuner status`, `watch` or `notify`. The address is a secret: it
stays in the environment and is never written. A message holds figures and paths, never text of a document.
"""

import os
import socket
from pathlib import Path

from medtuner.attempts import AttemptLog, goodput
from medtuner.config import Event, NotifySection, load_config
from medtuner.errors import MedtunerError
from medtuner.runs import read_json, timestamp, write_json


def announce(folder: Path, options: NotifySection, event: Event) -> str:
    """Tell of a run's event, once for each attempt, where it is asked for and an address is set.

    Returns what went wrong, "" when nothing did: a message never ends a run.
    """
    if event not in options.on or not os.environ.get(options.url_env):
        return ""
    rows = AttemptLog(folder).rows()
    name = f"attempt-{rows[-1].attempt if rows else 0}-{event}.json"
    outbox = folder / "outbox"
    if not (outbox / name).exists() and not (outbox / "sent" / name).exists():
        write_json(outbox / name, compose(folder, event) | {"time": timestamp()})
    try:
        _, waiting = deliver(folder)
    except MedtunerError as error:
        return str(error)
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


def deliver(folder: Path) -> tuple[int, int]:
    """Send what waits in a run's outbox; return how many messages left and how many stay."""
    waiting = sorted((folder / "outbox").glob("*.json"))
    if not waiting:
        return 0, 0
    url = os.environ.get(load_config(folder / "config.toml").notify.url_env, "")
    sent = 0
    for path in waiting if url else []:
        message = read_json(path)
        if not send(url, title=message["title"], body=message["body"]):
            break
        (path.parent / "sent").mkdir(exist_ok=True)
        path.replace(path.parent / "sent" / path.name)
        sent += 1
    return sent, len(waiting) - sent


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
