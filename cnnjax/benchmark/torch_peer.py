"""The peer in PyTorch. `python -m cnnjax.benchmark.torch_peer lenet` prints its timing.

The images stay on the device as uint8 and each step gathers its own by a permutation and normalises them, as ours does.
Eager and compiled, each in both memory layouts, race over a few steps; the fastest is timed.
"""

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

# Compiled kernels kept from an earlier run would make the first step look cheaper than it is.
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"

import torch
from torch import nn

from cnnjax import benchmark
from cnnjax.benchmark import LEARNING_RATE, MEAN, STD, WARM_UP_STEPS, Timing, Work
from cnnjax.errors import UserError

LAPS, STEPS_PER_LAP = 3, 50


class Variant(NamedTuple):
    """A way to run the same training."""

    name: str
    compiled: bool
    memory_format: Any


class Candidate(NamedTuple):
    """A variant that works; ``run`` trains some steps and returns when the device has ended."""

    run: Callable[[int], None]
    parameters: int
    first_step_seconds: float


VARIANTS = (
    Variant("eager", False, torch.contiguous_format),
    Variant("eager, channels_last", False, torch.channels_last),
    Variant("torch.compile", True, torch.contiguous_format),
    Variant("torch.compile, channels_last", True, torch.channels_last),
)


def lenet() -> Any:
    """Return the network of cnnjax's `models/lenet.py`."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.Sigmoid(), nn.Linear(120, 84), nn.Sigmoid(), nn.Linear(84, 10),
    )  # fmt: skip


MODELS = {"lenet": lenet}


def train(work: Work) -> Timing:
    """Time the fastest variant; the eager ones must work, the compiled ones may fail where there is no compiler."""
    device = choose_device(work)
    candidates, failed = {}, ""
    for variant in VARIANTS:
        try:
            candidates[variant.name] = prepare(work, device, variant)
        except Exception as error:
            if not variant.compiled:
                raise
            failed += f"; {variant.name} failed with {type(error).__name__}"
    laps = race({name: candidate.run for name, candidate in candidates.items()}, min(STEPS_PER_LAP, work.steps))
    best = min(laps, key=lambda name: laps[name])
    told = ", ".join(f"{name.replace(',', '')} {1000 * seconds:.1f}" for name, seconds in laps.items())
    return Timing(
        how=f"{best}, the fastest of (ms/step) {told}{failed}",
        packages=(f"torch {torch.__version__}",),
        platform=work.platform,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        parameters=candidates[best].parameters,
        first_step_seconds=candidates[best].first_step_seconds,
        epoch_seconds=benchmark.time_epochs(work, lambda epoch: candidates[best].run(work.steps)),
    )


def choose_device(work: Work) -> Any:
    """Return torch's device for the platform, or raise UserError where torch does not run on it."""
    if work.platform == "tpu" or (work.platform == "cuda" and not torch.cuda.is_available()):
        raise UserError(f"this PyTorch, {torch.__version__}, does not run on {work.platform}")
    on_gpu = work.platform == "cuda" or (work.platform == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if on_gpu else "cpu")


def prepare(work: Work, device: Any, variant: Variant) -> Candidate:
    """Make the network and its training, take the first step and warm up."""
    torch.compiler.reset()  # else a variant would profit from what was compiled for the one before
    torch.manual_seed(0)
    model = MODELS[work.model]().to(device, memory_format=variant.memory_format)
    parameters = benchmark.check_parameters(work, sum(parameter.numel() for parameter in model.parameters()))
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    split = benchmark.made_up(work)
    images = torch.from_numpy(split.images).permute(0, 3, 1, 2).contiguous().to(device)
    labels = torch.from_numpy(split.labels).long().to(device)
    mean, std = (torch.tensor(values, device=device).reshape(1, -1, 1, 1) for values in (MEAN, STD))

    def forward(picked_images: Any, picked_labels: Any) -> tuple[Any, Any]:
        logits = model((picked_images.float() / 255 - mean) / std)
        correct = (logits.argmax(dim=1) == picked_labels).sum()
        return nn.functional.cross_entropy(logits, picked_labels), correct

    run_forward: Callable[[Any, Any], tuple[Any, Any]] = torch.compile(forward) if variant.compiled else forward

    def run(steps: int) -> None:
        order = torch.randperm(work.images, device=device)
        loss_sum, correct_sum = torch.zeros((), device=device), torch.zeros((), dtype=torch.long, device=device)
        for step in range(steps):
            picked = order[step * work.batch : (step + 1) * work.batch]
            loss, correct = run_forward(images[picked], labels[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * work.batch
            correct_sum += correct
        loss_sum.item(), correct_sum.item()  # fetched, as ours are; this waits for the device

    started = time.perf_counter()
    run(1)
    first_step_seconds = time.perf_counter() - started
    run(min(WARM_UP_STEPS, work.steps))
    return Candidate(run, parameters, first_step_seconds)


def race(runs: dict[str, Callable[[int], None]], steps: int) -> dict[str, float]:
    """Return each one's seconds a step: the best of some laps, in turns, so that a disturbance hits them alike."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(LAPS):
        for name, run in runs.items():
            started = time.perf_counter()
            run(steps)
            found[name].append((time.perf_counter() - started) / steps)
    return {name: min(seconds) for name, seconds in found.items()}


if __name__ == "__main__":
    benchmark.serve(train)
