"""`scripts/benchmark.py gpu`: questions in their order, each within its time, and what they printed."""

import pytest

from cnnjax.benchmark import gpu
from cnnjax.benchmark.gpu import QUESTIONS, Question
from cnnjax.errors import PartlyDone, UserError

STAND_IN = """
import sys, time
print("asked", *sys.argv[1:], flush=True)
time.sleep(60 if "slow" in sys.argv else 0)
sys.exit(3 if "broken" in sys.argv else 0)
"""


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Return a function that asks a stand-in for the commands."""
    script = tmp_path / "benchmark.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(gpu, "SCRIPT", script)

    def ask(*questions, minutes=1, least=0):
        monkeypatch.setattr(gpu, "QUESTIONS", questions)
        monkeypatch.setattr(gpu, "LEAST_SECONDS", least)
        gpu.run(["--small", "--minutes", str(minutes), "--out", str(tmp_path / "out")])

    return ask


def test_the_output_of_each_question_is_kept(ask, tmp_path):
    ask(Question("first", 30, "train --batch 1", ""), Question("second", 30, "infer --batch 1", "--batch 2"))
    text = (tmp_path / "out" / "second.txt").read_text()
    assert "asked infer --batch 2 --turns 1 --platform cpu\n[done]" in text
    assert (tmp_path / "out" / "first.txt").exists()


def test_a_question_that_takes_too_long_is_ended_and_the_next_is_asked(ask, tmp_path):
    questions = Question("late", 1, "train --models slow", ""), Question("next", 30, "train --models broken", "")
    with pytest.raises(PartlyDone, match="late: not finished after 1 s; next: exit code 3"):
        ask(*questions)
    assert "asked train" in (tmp_path / "out" / "late.txt").read_text()


def test_questions_for_which_no_time_is_left_are_named(ask):
    with pytest.raises(PartlyDone, match="late: not asked, no time left"):
        ask(Question("late", 30, "train --models x", ""), minutes=1, least=61)


def test_an_unknown_question_is_refused():
    with pytest.raises(UserError, match="unknown question 'resnet'; did you mean"):
        gpu.run(["--only", "resnet"])


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_a_trial_needs_no_other_library_and_writes_nothing(question):
    trial = gpu.words(question, small=True)
    assert not {"torch", "--write"} & set(trial)
    options = [word for word in trial if word.startswith("--")]
    assert len(options) == len(set(options))
    assert gpu.words(question, small=False)[-1] == "--write"
