import os
import signal
import threading

import pytest

from cnnjax.errors import Interrupted
from cnnjax.system import signals
from cnnjax.system.signals import SIGNALS, deferred_signals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_acted_on_at_the_next_poll(number):
    before = signal.getsignal(number)
    with deferred_signals("goes on") as poll:
        poll()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match="goes on"):
            poll()
    assert signal.getsignal(number) is before


def test_polled_from_anywhere_and_forgotten_at_the_end():
    with deferred_signals("goes on"):
        signals.poll()
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Interrupted, match="goes on"):
            signals.poll()
    signals.poll()


def test_before_that_each_of_them_acts_as_ctrl_c():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        signals.leave_on_signals()
        for number in SIGNALS:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_second_signal_leaves_at_once(monkeypatch):
    left = []
    monkeypatch.setattr(os, "_exit", left.append)
    with deferred_signals("goes on"):
        os.kill(os.getpid(), signal.SIGINT)
        assert left == []
        os.kill(os.getpid(), signal.SIGINT)
    assert left == [1]


def test_in_another_thread_signals_keep_their_meaning():
    before, seen = signal.getsignal(signal.SIGINT), []

    def run():
        with deferred_signals("goes on") as poll:
            poll()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
