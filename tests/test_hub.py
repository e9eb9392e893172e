"""What the hub refuses is one line with its cure: asked by the stock client, of a server here."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from huggingface_hub import constants

from vardiu.errors import ConfigError
from vardiu.teachers.readers import load, surroundings

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Has a gated repository, one with a branch, no others, and lets nobody through to elsewhere."""

    def answer(self):
        if self.path.startswith("/api/models/org/gated/tree"):
            known = {"type": "file", "path": "model_index.json", "size": 2, "oid": "a" * 40}
            return self.reply(200, body=json.dumps([known]))
        if self.path.startswith("/api/models/org/gated"):
            return self.reply(200, body=json.dumps({"id": "org/gated", "sha": COMMIT}))
        if self.path.startswith("/org/gated/resolve"):
            return self.reply(403, "GatedRepo", "Access to model org/gated is restricted")
        if self.path.startswith("/api/models/org/branched"):
            return self.reply(404, "RevisionNotFound", "Invalid rev id: v9")
        return self.reply(401, "RepoNotFound", "Repository not found")

    do_GET = do_HEAD = answer  # noqa: N815 (the names of http.server)

    def do_CONNECT(self):
        self.reply(403)

    def reply(self, status, code="", words="", body=""):
        self.send_response(status)
        for name, value in (("X-Error-Code", code), ("X-Error-Message", words)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body.encode())

    def log_message(self, *arguments):
        """Says nothing."""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The address of a hub that the stock client asks, with an empty cache of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + template)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()
    yield address
    server.shutdown()
    server.server_close()
    huggingface_hub.close_session()


def refusal(source):
    with pytest.raises(ConfigError) as caught:
        load(source)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    with pytest.raises(ConfigError) as again:
        surroundings(source)
    assert str(again.value)[:60] == message[:60]
    name = source.partition("@")[0]
    assert message.startswith(f"{name} is no folder here, and cannot be had from the hub: ")
    return message


def test_what_nobody_may_read_without_a_token(hub):
    words = refusal("org/gated")
    assert "agree to terms: do so on the page of org/gated, and set HF_TOKEN to a token" in words
    assert "--local-dir" not in words


def test_an_id_that_the_hub_has_not(hub):
    words = refusal("org/misspelt")
    assert "(correct the path or the id; of a private one, set HF_TOKEN to a token that" in words


def test_a_revision_that_it_has_not(hub):
    words = refusal("org/branched@v9")
    assert "(org/branched has no revision v9: after @ stands a branch, a tag or a commit)" in words


def test_an_id_that_cannot_be_one(hub):
    assert "(correct the path or the id; of a private one" in refusal("org/a--b")


@pytest.mark.parametrize("source", ["org/name", "org/name@v1"])
def test_without_the_hub_the_command_that_brings_a_folder_is_told(hub, source, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    words = refusal(source)
    at = " --revision v1" if "@" in source else ""
    assert f"`hf download org/name{at} --local-dir FOLDER` writes one, and --teacher FOL" in words


def test_a_hub_that_does_not_answer(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "`hf download org/name --local-dir FOLDER`" in refusal("org/name")


def test_a_proxy_that_lets_nobody_through(hub, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("HTTPS_PROXY", hub)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    huggingface_hub.close_session()
    assert "`hf download org/name --local-dir FOLDER`" in refusal("org/name")


def test_a_cache_that_cannot_be_written(hub, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    words = refusal("org/name")
    assert "No space left on device (the hub's cache cannot be written: set HF_HOME" in words
