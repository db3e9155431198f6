"""Messages about runs, received by a real HTTP server; Apprise speaks to it as to any channel."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import small_config

from medtuner.config import NotifySection
from medtuner.notifications import deliver

Run = Callable[..., subprocess.CompletedProcess[str]]


class Channel:
    """A server that keeps the messages posted to it."""

    def __init__(self) -> None:
        self.messages: list[dict[str, str]] = []
        channel = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                channel.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def channel() -> Iterator[Channel]:
    channel = Channel()
    yield channel
    channel.server.shutdown()
    channel.server.server_close()


@pytest.fixture
def config(tmp_path: Path, small_encoder: str) -> str:
    (tmp_path / "small.toml").write_text(small_config(small_encoder))
    return "small.toml"


def test_a_finished_run_tells_its_figures(run_medtuner: Run, config: str, channel: Channel, tmp_path: Path) -> None:
    done = run_medtuner("train", config, environment={"MEDTUNER_NOTIFY": channel.url})
    assert done.returncode == 0, done.stderr
    (message,) = channel.messages
    assert message["title"] == "medtuner: small finished"
    scores = json.loads((tmp_path / "runs" / "small" / "scores.json").read_text())["strict"]
    assert f"micro {100 * scores['micro']['f1']:.1f}" in message["message"]
    assert f"macro {100 * scores['macro']['f1']:.1f}; 40 test documents" in message["message"]
    assert "1 attempt" in message["message"]
    run_medtuner("train", config, environment={"MEDTUNER_NOTIFY": channel.url})
    assert len(channel.messages) == 1, "a finished run that is started again has nothing new to tell"
    secret = channel.url.removeprefix("json://")
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert not any(secret.encode() in path.read_bytes() for path in files), "the address is written nowhere"


def test_what_a_node_cannot_send_leaves_from_the_login_node(run_medtuner: Run, config: str, channel: Channel) -> None:
    done = run_medtuner("train", config, environment={"MEDTUNER_NOTIFY": "json://127.0.0.1:9/"})
    assert done.returncode == 0, done.stderr
    assert "a message waits in" in " ".join((done.stdout + done.stderr).split())
    assert run_medtuner("notify").stdout == "0 sent, 1 waiting\n", "no address, nothing sent"
    shown = run_medtuner("status", environment={"MEDTUNER_NOTIFY": channel.url})
    assert "finished" in shown.stdout
    assert [message["title"] for message in channel.messages] == ["medtuner: small finished"]
    again = run_medtuner("notify", environment={"MEDTUNER_NOTIFY": channel.url})
    assert again.stdout == "0 sent, 0 waiting\n"
    assert len(channel.messages) == 1


@pytest.mark.filterwarnings("ignore:'imghdr':DeprecationWarning")  # Apprise loads it
def test_a_message_that_a_killed_process_took_is_put_back(tmp_path: Path, channel: Channel) -> None:
    outbox = tmp_path / "outbox"
    outbox.mkdir()
    message = {"title": "t", "body": "b"}
    for name, age in (
        ("attempt-0-failed.json", 0),
        (".attempt-1-failed.json.n1-7", 0),
        (".attempt-2-failed.json.n1-8", 1000),
    ):
        (outbox / name).write_text(json.dumps(message))
        os.utime(outbox / name, (time.time() - age, time.time() - age))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDTUNER_NOTIFY", channel.url)
        assert deliver(tmp_path, NotifySection()) == (2, 0), "the one that is being sent elsewhere is left alone"
    assert sorted(path.name for path in (outbox / "sent").iterdir()) == [
        "attempt-0-failed.json",
        "attempt-2-failed.json",
    ]


def test_a_bad_address_never_ends_a_run(run_medtuner: Run, config: str) -> None:
    done = run_medtuner("train", config, environment={"MEDTUNER_NOTIFY": "not an address"})
    assert done.returncode == 0, done.stderr
    assert "none that Apprise knows" in " ".join((done.stdout + done.stderr).split())
    tested = run_medtuner("notify", "--test", environment={"MEDTUNER_NOTIFY": "not an address"})
    assert tested.returncode == 2
    assert "not an address" not in tested.stderr


def test_the_address_is_tried_on_demand(run_medtuner: Run, channel: Channel) -> None:
    assert run_medtuner("notify", "--test", environment={"MEDTUNER_NOTIFY": channel.url}).stdout == "sent\n"
    assert channel.messages[0]["title"] == "medtuner"
    environment = {name: value for name, value in os.environ.items() if name != "MEDTUNER_NOTIFY"}
    unset = subprocess.run(
        [sys.executable, "-m", "medtuner", "notify", "--test"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert unset.returncode == 2
    assert "export MEDTUNER_NOTIFY=" in unset.stderr
