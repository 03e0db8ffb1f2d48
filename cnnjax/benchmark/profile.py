"""Where a training step's time goes, without the native part and as it is now: `scripts/benchmark.py profile`.

Each network is traced in a process of its own by JAX's profiler. An operation of the compiled program belongs to the
layer that its name tells; where several were fused into one, to the layer of the last.
"""

import collections
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import tyro
from matplotlib.figure import Figure
from rich.console import Console

from cnnjax import cli
from cnnjax.benchmark import machine, page
from cnnjax.benchmark.blocks import network
from cnnjax.benchmark.command import default_batch
from cnnjax.benchmark.work import LEARNING_RATE, Job
from cnnjax.config import Optimizer
from cnnjax.data import Preprocessing, Split
from cnnjax.errors import UserError, require
from cnnjax.fields import Fields
from cnnjax.models import convolution
from cnnjax.optim import make_optimizer
from cnnjax.report.figures import save
from cnnjax.training.evaluation import to_device
from cnnjax.training.step import init_state, make_dispatch, make_train_step, step_key

FEWEST_STEPS, MOST_STEPS, SECONDS = 3, 50, 1.0
"""So many steps are timed, and then traced, that they take about a second."""
KERNEL_GRADIENT = "transpose(convolution)"
FORWARD, GRADIENTS, REST = "convolution", "convolution's gradients", "other"
PARTS = (FORWARD, GRADIENTS, "norm", "pooling", "dense", "optimizer", REST)
"""What a step's time is divided into; other: activations that follow no norm, the loss, the images."""
COLORS = ("#1f6feb", "#79b8ff", "#d29922", "#3fb950", "#a371f7", "#f85149", "#8a8a8a")
WAYS = ("before", "after")
"""before: all by XLA, convolutions by its own; after: with the native part, by the rules of `cnnjax.models`."""
DOCS = Path(__file__).resolve().parents[2] / "docs"
HEADING, PICTURE = "Where the time goes", "images/performance.png"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Fields):
    """What is profiled."""

    models: tuple[str, ...] = ("lenet", "resnet20_cifar", "resnet50")
    """Networks by their names in the table of models, or the blocks of `scripts/benchmark.py train`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.models), "--models", self.models, "one or more names")
        for name in self.models:
            network(name)


class Row(NamedTuple):
    """A network, its batch, a way, and the milliseconds a step in all and of each part."""

    model: str
    batch: int
    way: str
    by: str
    milliseconds: float
    parts: dict[str, float]


def part_of(name: str) -> str:
    """Return the part that an operation belongs to, by its name in the compiled program."""
    found = re.findall(r"\b(convolution|norm|pooling|dense|optimizer)\b", name)
    if not found:
        return REST
    return GRADIENTS if found[0] == "convolution" and "transpose(" in name else found[0]


def operations(program: str) -> dict[str, str]:
    """Return the full name of each instruction of a compiled program's text by its short one.

    XLA rewrites the gradient of a kernel without its name; it is known by its convolutions and transposed copies.
    """
    bodies = dict(re.findall(r"^%?([\w.\-]+) \(.*?\{$(.*?)^\}", program, re.MULTILINE | re.DOTALL))
    found = {}
    for name, text in re.findall(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$", program, re.MULTILINE):
        own = re.findall(r'op_name="([^"]*)"', text)
        called = re.search(r"calls=%?([\w.\-]+)", text)
        body = text + bodies.get(called[1], "") if called else text
        rewritten = " convolution(" in body or name.startswith("transpose_copy")
        names = own or [KERNEL_GRADIENT] * rewritten or re.findall(r'op_name="([^"]*)"', body)
        found[name] = names[-1] if names else ""
    return found


def parts_of(trace: Path, names: dict[str, str]) -> dict[str, float]:
    """Return the share of each part in the time of all operations in a trace."""
    sums: collections.Counter[str] = collections.Counter()
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in names:
                    sums[part_of(names[event.name])] += event.duration_ns
    total = sum(sums.values())
    if not total:
        raise UserError("the profiler saw no operation of the step; this version of JAX names them otherwise")
    return {part: sums[part] / total for part in PARTS}


def profiled(job: Job, way: str) -> Row:
    """Train some steps here, then some under the profiler."""
    cli.use_platform(job.platform)
    if way == "before":
        convolution.lowering = lambda dtype: "xla"
    height, width, _ = job.image_shape
    arch = network(job.model)
    optimizer = make_optimizer(Optimizer(name=job.optimizer, lr=LEARNING_RATE), lambda step: LEARNING_RATE)
    preprocessing = Preprocessing(height=height, width=width, mean=job.mean, std=job.std)
    step = make_dispatch(make_train_step(arch, optimizer, preprocessing, label_smoothing=0.0), job.batch, 1)
    data = to_device(Split(*(array[: job.batch] for array in job.made_up())))
    order, key, state = jax.numpy.arange(job.batch), step_key(0), init_state(arch, optimizer, 0)
    compiled = step.lower(state, data, order, key, steps=1).compile()  # type: ignore[attr-defined]

    def run() -> float:
        nonlocal state
        started = time.perf_counter()
        state, metrics = compiled(state, data, order, key)
        jax.block_until_ready((state, metrics))
        return 1000 * (time.perf_counter() - started)

    run()
    steps = min(MOST_STEPS, max(FEWEST_STEPS, round(1000 * SECONDS / run())))
    milliseconds = sorted(run() for _ in range(steps))[steps // 2]
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                run()
        (trace,) = Path(folder).rglob("*.xplane.pb")
        shares = parts_of(trace, operations(compiled.as_text()))
    parts = {part: milliseconds * share for part, share in shares.items()}
    by = convolution.lowering(jax.numpy.dtype(arch.dtype))
    return Row(job.model, job.batch, way, by, milliseconds, parts)


def measured(model: str, way: str) -> Row:
    """Return what a process of its own finds."""
    arch = network(model)
    job = Job(
        task="train", model=model, image_shape=arch.image_shape, num_classes=arch.num_classes,
        batch=default_batch("train", model, arch), platform="cpu",
    )  # fmt: skip
    command = [sys.executable, "-m", "cnnjax.benchmark.profile", json.dumps(job.to_dict()), way]
    native = {"CNNJAX_NATIVE": "0"} if way == "before" else {}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **native})
    if ended.returncode:
        told = ended.stderr.strip().splitlines() or [f"its process ended with {ended.returncode}"]
        raise UserError(f"{model} could not be profiled: {told[-1]}")
    return Row(*json.loads(ended.stdout.splitlines()[-1]))


def markdown(rows: Sequence[Row]) -> str:
    """Return the table: milliseconds a step."""
    header = ("ms a step", "convolution by", "all", *PARTS)
    lines: list[Sequence[str]] = [header, ("---", "---", *["---:"] * (len(header) - 2))]
    for row in rows:
        figures = (f"{row.parts[part]:.1f}" for part in PARTS)
        lines.append((f"{row.model}, batch {row.batch}, {row.way}", row.by, f"{row.milliseconds:.1f}", *figures))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def picture(rows: Sequence[Row]) -> Figure:
    """Draw a bar for each row: its parts, as shares of the step that took longest for that network."""
    slowest = {row.model: max(other.milliseconds for other in rows if other.model == row.model) for row in rows}
    figure = Figure(figsize=(10, 1 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    start = [0.0] * len(rows)
    for part, color in zip(PARTS, COLORS, strict=True):
        shares = [100 * row.parts[part] / slowest[row.model] for row in rows]
        axes.barh(range(len(rows)), shares, left=start, color=color, label=part)
        start = [a + b for a, b in zip(start, shares, strict=True)]
    for index, (row, end) in enumerate(zip(rows, start, strict=True)):
        axes.text(end + 1, index, f"{row.milliseconds:.1f} ms", va="center")
    axes.set_yticks(range(len(rows)), [f"{row.model}, {row.way}" for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel="% of the step without the native part", xlim=(0, 120))
    axes.legend(ncols=len(PARTS), loc="upper center", bbox_to_anchor=(0.45, 1.0 + 0.9 / (1 + len(rows))), fontsize=8)
    return figure


def run(arguments: list[str]) -> None:
    """Read the command line, profile, print; with --write, into docs/performance.md."""

    def options(
        work: Annotated[Options, tyro.conf.arg(name="")], *, write: bool = False, debug: bool = False
    ) -> Any:  # fmt: skip
        """Say where a training step's time goes on this CPU, without the native part and as it is now.

        Args:
            work: What is profiled.
            write: Write the table and the picture to docs/performance.md.
            debug: Show the traceback of an error.
        """
        return work, write

    work, write = cli.parse(options, arguments, "scripts/benchmark.py profile")
    rows = []
    with Console(stderr=True).status("") as status:
        for model in work.models:
            for way in WAYS:
                status.update(f"{model}, {way}")
                rows.append(measured(model, way))
    print(markdown(rows))
    if write:
        record(arguments, rows)


def record(arguments: list[str], rows: Sequence[Row], docs: Path = DOCS) -> None:
    """Write the picture, and the section of docs/performance.md that shows it."""
    (docs / PICTURE).parent.mkdir(parents=True, exist_ok=True)
    save(picture(rows), docs / PICTURE)
    parts = [
        f"`python scripts/benchmark.py profile {' '.join(arguments)}` on {machine.description()}; "
        f"jax {jax.__version__}.",
        f"![Where the time of a training step goes]({PICTURE})",
        markdown(rows),
        "before: without the native part, and every convolution by XLA's own; after: by the rules above. All is the "
        f"median of {FEWEST_STEPS} to {MOST_STEPS} steps, of a second or more. It is divided as the profiler's times "
        "of all operations are; where several were fused into one, it counts for the layer of the last. XLA runs some "
        "of its own convolutions asynchronously, and the profiler then shows their launch alone: before, a convolution "
        "and its gradients are to be read together, and take more than is shown. What follows a convolution "
        "or a norm at once, such as ReLU, counts with it. Other: other activations, the loss, images.",
    ]
    page.write_section(HEADING, parts, docs / "performance.md")


def _child(arguments: list[str]) -> None:
    print(json.dumps(profiled(Job.from_dict(json.loads(arguments[0])), arguments[1])))


if __name__ == "__main__":
    cli.main(_child)
