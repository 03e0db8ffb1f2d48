"""The open questions on GPUs, for a machine that is at hand for minutes: `scripts/benchmark.py gpu --minutes 12`.

The questions are commands of `scripts/benchmark.py`, the most important first, each with a time limit of its own. What
a command printed is kept in a file even if its time was over. Their sections of docs/benchmarks.md are written by the
commands themselves, and copied beside the files.

Needs an image with CUDA and jax, flax, optax, orbax-checkpoint, torch, Pillow, matplotlib and rich, and the wheels of
pydantic, pydantic-core, annotated-types, typing-inspection, tyro, docstring-parser and typeguard if it lacks them.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro
from pydantic import Field
from rich.console import Console

from cnnjax import cli
from cnnjax.benchmark import page
from cnnjax.errors import PartlyDone, choose
from cnnjax.schema import Number, Schema

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmark.py"
LEAST_SECONDS = 20
"""Seconds that must be left for another question to be asked."""


class Question(NamedTuple):
    """A command with its time limit; ``small`` replaces options for a trial on a CPU."""

    name: str
    seconds: int
    command: str
    small: str


TRAIN, BFLOAT16 = "train --models", "--dtype bfloat16"
QUESTIONS = (
    Question(
        "resnet50", 300, f"{TRAIN} resnet50 --batch 256 {BFLOAT16} --against torch candidates --turns 2",
        "--models resnet18 --input-size 32 --batch 4",
    ),
    Question(
        "stem", 120, f"{TRAIN} resnet_stem --batch 256 {BFLOAT16} --against one_pass index blocks candidates",
        "--input-size 16 --batch 4",
    ),
    Question(
        "bottleneck", 90, f"{TRAIN} bottleneck --batch 256 {BFLOAT16} --against one_pass fusion graphs nhwc nchw",
        "--input-size 14 --batch 4 --against one_pass",
    ),
    Question(  # the first step tells where its time goes
        "lenet", 150, f"{TRAIN} lenet --batch 256 --against torch untuned cublas", "--batch 16 --against none"
    ),
    Question("members", 150, f"members {BFLOAT16}", "--members 2 --images 64 --batch 32"),
    Question(
        "inference", 120, f"infer --models resnet50 --batch 1 256 {BFLOAT16} --against torch",
        "--models resnet18 --input-size 32 --batch 1",
    ),
    Question(
        "grouped", 90, f"{TRAIN} resnext_block --batch 256 {BFLOAT16} --against torch fusion graphs nhwc nchw",
        "--input-size 14 --batch 4 --against none",
    ),
    Question(
        "xception", 180, f"{TRAIN} xception --batch 64 {BFLOAT16} --against torch", "--input-size 71 --batch 1"
    ),
    Question(
        "regnet", 180, f"{TRAIN} regnet_y_8gf --batch 64 {BFLOAT16} --against torch",
        "--models regnet_y_400mf --input-size 32 --batch 4",
    ),
)  # fmt: skip


class Work(Schema, at="--"):
    """Options: the time, and which questions to ask."""

    minutes: Annotated[Number, Field(gt=0)] = 12.0
    """Minutes for all questions together."""
    only: tuple[str, ...] = ()
    """Names of questions to ask; none: all of them."""
    small: bool = False
    """Ask them at tiny sizes and without PyTorch, to try the command on a CPU; nothing is written to docs."""
    out: Path = Path("build/gpu")
    """Folder for what the commands print."""

    def __post_init__(self) -> None:
        for name in self.only:
            choose("question", name, [question.name for question in QUESTIONS])


def run(arguments: list[str]) -> None:
    """Parse the command line and ask the questions.

    Raises:
        PartlyDone: some of them failed or did not finish in time.
    """

    def options(work: Annotated[Work, tyro.conf.arg(name="")], *, debug: bool = False) -> Work:
        """Ask the open questions on GPUs, the most important first, within a given time.

        Args:
            work: The time, and which questions to ask.
            debug: Show the traceback of an error.
        """
        return work

    work = cli.parse(options, arguments, "scripts/benchmark.py gpu")
    console, problems = Console(highlight=False), []
    work.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * work.minutes
    for question in QUESTIONS:
        if work.only and question.name not in work.only:
            continue
        seconds = min(question.seconds, end - time.monotonic())
        if seconds < LEAST_SECONDS:
            problems.append(f"{question.name}: not asked, no time left")
            continue
        command = words(question, small=work.small)
        console.print(
            f"\n{question.name}: {shlex.join(command)}, at most {seconds:.0f} s", style="bold", soft_wrap=True
        )
        problem = ask(command, work.out / f"{question.name}.txt", seconds)
        problems += [f"{question.name}: {problem}"] if problem else []
    if not work.small and page.PAGE.exists():
        shutil.copy(page.PAGE, work.out)
    console.print(f"\noutput: {work.out}")
    if problems:
        raise PartlyDone("; ".join(problems))


def words(question: Question, *, small: bool) -> list[str]:
    """Return the arguments of a question's command; those of the trial replace options of the same name."""
    command = question.command.split()
    if not small:
        return [*command, "--write"]
    replaced = _options(question.small.split())
    kept = {name: values for name, values in _options(command[1:]).items() if name not in replaced}
    merged = {**kept, **replaced, "--turns": ["1"], "--platform": ["cpu"]}
    if "--against" in merged:
        merged["--against"] = [name for name in merged["--against"] if name != "torch"] or ["none"]
    return [command[0], *(word for name, values in merged.items() for word in (name, *values))]


def _options(words: Sequence[str]) -> dict[str, list[str]]:
    options: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            options[word] = []
        else:
            options[list(options)[-1]].append(word)
    return options


def ask(command: Sequence[str], output: Path, seconds: float) -> str:
    """Run a command of `scripts/benchmark.py`; keep and print its output; return what went wrong, or an empty text."""
    problem = ""
    with output.open("w") as file:
        file.write(f"$ python scripts/benchmark.py {shlex.join(command)}\n")
        file.flush()
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *command], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            problem = f"not finished after {seconds:.0f} s"
        else:
            problem = f"exit code {code}" if code else ""
        finally:
            _end(process)
        file.write(f"[{problem or 'done'}]\n")
    print(output.read_text(), end="", flush=True)
    return problem


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a command and the peers that it started; they share its process group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
