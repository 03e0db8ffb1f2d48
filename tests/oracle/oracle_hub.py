"""``hf:OWNER/NAME`` by huggingface_hub, with a server on loopback in place of the hub."""

import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cnnjax.hub.loading import INCLUDED

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOAD = """
import sys
import cnnjax
network = cnnjax.load_pretrained(sys.argv[1])
print(network.arch.family, network.classes[9], len(network.variables.params))
"""


@pytest.fixture
def hub():
    """Serve one repository, owner/lenet, as the hub does; yield the address and the list of requests."""
    folder, requests = INCLUDED / "lenet.fashion_mnist", []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(body=True)

        def do_HEAD(self):
            self.answer(body=False)

        def answer(self, body):
            requests.append(self.path)
            path = self.path.partition("?")[0]
            name = path.rpartition("/")[2]
            if not (path.startswith("/owner/lenet/resolve/") and (folder / name).is_file()):
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = (folder / name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{name}-1"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


def load(name, home: Path, **environment) -> subprocess.CompletedProcess:
    """Load a network in a process of its own, because huggingface_hub reads its settings when it is imported."""
    variables = {**os.environ, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    return subprocess.run([sys.executable, "-c", LOAD, name], env=variables, capture_output=True, text=True)


def test_a_repository_is_downloaded_once_and_then_used_offline(hub, tmp_path):
    address, requests = hub
    done = load("hf:owner/lenet", tmp_path, HF_ENDPOINT=address)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["lenet", "Ankle", "boot", "5"]
    assert {path.rpartition("/")[2] for path in requests} == {"config.json", "model.safetensors"}
    count = len(requests)
    done = load("hf:owner/lenet", tmp_path, HF_ENDPOINT=address, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert len(requests) == count


@pytest.mark.parametrize(("name", "offline"), [("owner/nothing", ""), ("owner/lenet", "1")])
def test_a_missing_repository_or_network_is_one_error(hub, tmp_path, name, offline):
    done = load(f"hf:{name}", tmp_path, HF_ENDPOINT=hub[0], HF_HUB_OFFLINE=offline)
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("cnnjax.errors.UserError"))
    assert f"hf:{name} cannot be downloaded" in line and "folder:DIR" in line
