"""Several processes use the cache, and some are killed: it holds a valid network or none."""

import os
import signal
import subprocess
import sys
import time

import pytest

from cnnjax.hub import cache
from tests.hub.fixtures import entry, server, surroundings, weights
from tests.hub.server import Answer

LOAD = """
import sys
from cnnjax.hub import cache
from cnnjax.pretrained import find
network = cache.load(find(sys.argv[1])._replace(address=sys.argv[2], hash=sys.argv[3]))
print(len(network.variables.params))
"""


@pytest.fixture
def start():
    """Start processes that load the network; kill those that are left at the end."""
    processes = []

    def start(entry):
        command = [sys.executable, "-c", LOAD, entry.name, entry.address, entry.hash]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.many_processes
def test_a_process_killed_while_it_downloads_leaves_a_part_that_is_resumed(start, server, entry, surroundings):
    server[0].answers = [Answer(pause=0.2)]
    process = start(entry)
    part = surroundings / entry.name / f"{entry.file_name}.part"
    wait_for(lambda: part.exists() and part.stat().st_size > 100_000)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    size = part.stat().st_size
    assert 0 < size < len(server[0].content)
    assert not cache.is_cached(entry)
    cache.load(entry)
    assert server[0].requests[-1][1] == f"bytes={size}-"
    assert cache.is_cached(entry) and not part.exists()


@pytest.mark.many_processes
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2])
def test_a_process_killed_while_it_converts_leaves_a_valid_cache(start, server, entry, surroundings, delay):
    process = start(entry)
    part = surroundings / entry.name / f"{entry.file_name}.part"
    wait_for(lambda: part.exists() and part.stat().st_size == len(server[0].content))
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    cache.load(entry)
    folder = surroundings / entry.name
    assert {path.name for path in folder.iterdir()} == {".lock", "run", "record.json"}


@pytest.mark.many_processes
def test_two_processes_download_once(start, server, entry):
    server[0].answers = [Answer(pause=0.05)]
    outputs = [process.communicate(timeout=120) for process in [start(entry), start(entry)]]
    assert [output.strip() for output, _ in outputs] == ["5", "5"]
    assert len(server[0].requests) == 1
    assert any("another process is preparing" in error for _, error in outputs)
