"""Downloads from a real server that breaks them in many ways."""

import random
import socket

import pytest

from cnnjax.errors import UserError
from cnnjax.hub import download
from cnnjax.hub.download import ATTEMPTS, Unreachable, _Redirects
from tests.hub.server import Answer, serving

CONTENT = random.Random(0).randbytes(300_000)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.0)


@pytest.fixture
def server():
    with serving(CONTENT) as (server, address):
        yield server, f"{address}/file"


def get(address, part, largest=10**6, **options) -> list[int]:
    """Download and return the reported positions."""
    positions: list[int] = []
    download.download(address, part, largest, lambda done, total: positions.append(done), **options)
    return positions


def test_a_whole_file_is_downloaded_in_one_request(server, tmp_path):
    assert get(server[1], tmp_path / "part")[-1] == len(CONTENT)
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert server[0].requests == [("/file", None)]


@pytest.mark.parametrize("seed", range(5))
def test_a_download_that_breaks_at_random_bytes_resumes_there(server, tmp_path, seed):
    cuts = [random.Random(seed).randrange(1, 60_000) for _ in range(4)]
    server[0].answers = [Answer(cut=cut) for cut in cuts]
    get(server[1], tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    positions = [sum(cuts[: count + 1]) for count in range(4)]
    assert [asked for _, asked in server[0].requests] == [None, *(f"bytes={position}-" for position in positions)]


def test_an_interrupted_download_resumes_in_the_next_process(server, tmp_path):
    (tmp_path / "part").write_bytes(CONTENT[:1234])
    assert get(server[1], tmp_path / "part")[0] == 1234
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert server[0].requests == [("/file", "bytes=1234-")]


@pytest.mark.parametrize(
    "answers",
    [
        [Answer(cut=1000), Answer(ranges=False)],
        [Answer(cut=1000), Answer(shift=7)],
        [Answer(status=500), Answer(status=503), Answer(cut=1), Answer(status=429)],
        [Answer(location="/elsewhere"), Answer(cut=1000), Answer(location="/elsewhere")],
        [Answer(cut=0), Answer(cut=0)],
        [Answer(length=False)],
    ],
    ids=["ignores Range", "sends another range", "temporary errors", "redirects", "closes at once", "states no length"],
)  # fmt: skip
def test_a_server_s_faults_do_not_change_the_content(server, tmp_path, answers):
    server[0].answers = answers
    get(server[1], tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_a_finished_part_is_not_downloaded_again(server, tmp_path):
    (tmp_path / "part").write_bytes(CONTENT)
    get(server[1], tmp_path / "part")
    assert server[0].requests == [("/file", f"bytes={len(CONTENT)}-")]


def test_a_part_longer_than_the_file_is_started_again(server, tmp_path):
    (tmp_path / "part").write_bytes(CONTENT + b"more")
    get(server[1], tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_without_resuming_the_first_byte_is_asked_for(server, tmp_path):
    (tmp_path / "part").write_bytes(b"other")
    get(server[1], tmp_path / "part", resume=False)
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_a_server_that_never_recovers_ends_the_download(server, tmp_path):
    server[0].answers = [Answer(cut=1000), *[Answer(status=500)] * 20]
    with pytest.raises(UserError, match=r"the server answers 500.*run the same command to resume"):
        get(server[1], tmp_path / "part")
    assert len(server[0].requests) == 1 + ATTEMPTS - 1
    assert (tmp_path / "part").read_bytes() == CONTENT[:1000]


def test_a_missing_file_is_reported_at_once(server, tmp_path):
    server[0].answers = [Answer(status=404)]
    with pytest.raises(UserError, match="the server answers 404"):
        get(server[1], tmp_path / "part")
    assert len(server[0].requests) == 1


@pytest.mark.parametrize("length", [True, False])
def test_a_file_that_is_too_large_is_refused(server, tmp_path, length):
    server[0].answers = [Answer(length=length)]
    with pytest.raises(UserError, match="250,000"):
        get(server[1], tmp_path / "part", largest=250_000)


def test_no_server_is_reported_at_once(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/file"
        with pytest.raises(Unreachable, match="cannot be reached"):
            get(address, tmp_path / "part")


def test_other_addresses_are_refused(tmp_path):
    (tmp_path / "secret").write_text("text")
    with pytest.raises(UserError, match="is not an http or https address"):
        get(f"file://{tmp_path}/secret", tmp_path / "part")


def test_a_redirect_from_https_to_http_is_not_followed():
    import urllib.request

    request = urllib.request.Request("https://example.org/file")
    with pytest.raises(UserError, match="is not encrypted"):
        _Redirects().redirect_request(request, None, 302, "Found", {}, "http://example.org/file")
