import os
import signal
import threading

import pytest

from cnnjax.errors import Interrupted
from cnnjax.system import signals
from cnnjax.system.signals import SIGNALS, deferred_signals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_takes_effect_at_the_next_poll(number):
    before = signal.getsignal(number)
    with deferred_signals("stopped") as poll:
        poll()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match="stopped"):
            poll()
    assert signal.getsignal(number) is before


def test_signals_can_be_polled_anywhere_and_are_reset_at_the_end():
    with deferred_signals("stopped"):
        signals.poll()
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Interrupted, match="stopped"):
            signals.poll()
    signals.poll()


def test_before_training_each_signal_acts_like_ctrl_c():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        signals.leave_on_signals()
        for number in SIGNALS:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_second_signal_exits_immediately(monkeypatch):
    exit_codes = []
    monkeypatch.setattr(os, "_exit", exit_codes.append)
    with deferred_signals("stopped"):
        os.kill(os.getpid(), signal.SIGINT)
        assert exit_codes == []
        os.kill(os.getpid(), signal.SIGINT)
    assert exit_codes == [1]


def test_another_thread_leaves_signal_handlers_unchanged():
    before, handlers = signal.getsignal(signal.SIGINT), []

    def run():
        with deferred_signals("stopped") as poll:
            poll()
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [before]
