"""How processes find each other and end, without starting JAX on several of them."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from cnnjax.errors import Interrupted, UserError
from cnnjax.parallel import Placement, processes
from cnnjax.parallel.processes import Coordinator, coordinator_of
from cnnjax.system import signals, supervisor
from tests.faults.harness import ROOT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((None, 2, None), "--num-processes is 2 without --coordinator; add --coordinator HOST:PORT of process 0"),
        ((None, None, 1), "--process-id is 1 without --coordinator"),
        (("node1:1234", 2, None), "--coordinator is given without --process-id; add it"),
        (("node1:1234", None, 0), "--coordinator is given without --num-processes; add it"),
        (("node1:1234", 2, 2), "--process-id is 2; it must be 0 to 1, because --num-processes is 2"),
        (("node1:1234", 2, -1), "--process-id is -1; it must be 0 to 1"),
        (("node1:1234", 0, 0), "--num-processes is 0; it must be 1 to 100000"),
        (("node1", 2, 0), "--coordinator is 'node1'; it must be HOST:PORT of process 0, such as node1:1234, or auto"),
        (("node1:port", 2, 0), "--coordinator is 'node1:port'; it must be HOST:PORT"),
        ((":1234", 2, 0), "it must be HOST:PORT"),
        (("node1:70000", 2, 0), "it must be HOST:PORT"),
        (("auto", 2, None), "--coordinator is auto, which finds --num-processes and --process-id; leave these out"),
    ],
)
def test_options_that_name_no_coordinator_are_refused(options, message):
    with pytest.raises(UserError) as error:
        coordinator_of(*options, 300)
    assert message in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize("timeout", [0, 24 * 3600 + 1])
def test_a_timeout_out_of_range_is_refused(timeout):
    with pytest.raises(UserError, match=f"--connect-timeout is {timeout}; it must be 1 to 86400 seconds"):
        coordinator_of("node1:1234", 2, 0, timeout)


def test_the_options_name_a_coordinator():
    assert coordinator_of(None, None, None, 300) is None
    assert coordinator_of("auto", None, None, 9) == Coordinator("auto", timeout=9)
    assert coordinator_of("[::1]:1234", 2, 1, 9) == Coordinator("[::1]:1234", 2, 1, 9)


def test_one_process_has_nobody_to_exchange_with():
    assert (processes.count(), processes.number(), processes.is_leader()) == (1, 0, True)
    assert processes.exchange({"a": 1}) == [{"a": 1}]
    processes.leave()


def test_one_process_holds_the_whole_batch():
    placement = Placement(Mesh(np.array(jax.devices()[:1]), ("data",)))
    assert placement.share(12) == slice(0, 12) and not placement.spans_processes


def test_a_request_to_stop_interrupts_like_a_signal():
    with signals.deferred_signals("interrupted; to resume: repeat"):
        signals.poll()
        signals.request()
        with pytest.raises(Interrupted, match="interrupted; to resume: repeat"):
            signals.poll()
    signals.poll()


LOG = """\
E1128 13:44:03.247831   31237 agent.cc:80] failed
RPC: /xla.coordination
notice: kept
F1128 13:44:03.247831   31237 client.h:80] Terminating process
*** Check failure stack trace: ***
    @     0x7fac09040634  absl
"""


def test_the_log_of_xla_is_dropped_and_notices_are_kept():
    written = []
    lines = (LOG + supervisor.IF_KILLED + "never met\nlast\n").splitlines(keepends=True)
    assert supervisor.filtered(lines, written.append) == (False, "never met")
    assert written == ["notice: kept\n", "last\n"]
    assert supervisor.filtered([*lines, "error: known\n"], written.append, keep_log=True) == (True, "never met")
    assert "".join(written[2:]) == LOG + "last\nerror: known\n"


PROGRAM = """
import os, signal, sys, time
from cnnjax.system import supervisor
if not supervisor.is_supervised():
    raise SystemExit(supervisor.supervise("REPEAT", keep_log=False))
supervisor.obey()
print("begun", flush=True)
os.write(1, b"[Gloo] Rank 0 is connected\\n")
"""
RESUME = "to resume, start all processes again: REPEAT"


@pytest.mark.parametrize(
    ("end", "code", "message"),
    [
        ("sys.exit(0)", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("print('error: known', file=sys.stderr); sys.exit(2)", 2, "error: known\n"),
        ("print('error: known', file=sys.stderr, flush=True); os.abort()", 1, "error: known\n"),
        ("os.abort()", 1, "another process of this training has ended, or cannot be reached; see its output; to"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 1, "this process was killed (SIGKILL"),
        ("supervisor.if_killed('never met'); os.abort()", 2, "error: never met\n"),
        ("supervisor.if_killed('never met'); supervisor.if_killed(''); os.abort()", 1, RESUME),
        ("os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)", 1, "KeyboardInterrupt"),
        (
            "signal.signal(signal.SIGUSR2, signal.SIG_DFL); os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)",
            1, "error: interrupted; " + RESUME,
        ),
    ],
)  # fmt: skip
def test_a_supervisor_says_in_one_sentence_why_a_process_ended(end, code, message):
    run = subprocess.run([sys.executable, "-c", PROGRAM + end], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert run.returncode == code
    assert message in run.stderr if message else run.stderr == ""
    assert run.stdout == "begun\n"
