"""The peer in PyTorch. `python -m cnnjax.benchmark.torch_peer lenet` prints its timing.

The images stay on the device as uint8 and each step gathers its own by a permutation and normalises them, as ours does.
Eager and compiled, in both memory layouts, are timed one after another; the fastest is what is reported.
"""

import os
import time
from collections.abc import Callable
from typing import Any

# Compiled kernels of an earlier run would make the first step look cheaper than it is.
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"

import torch
from torch import nn

from cnnjax.benchmark import (
    LEARNING_RATE,
    MEAN,
    STD,
    WARM_UP_STEPS,
    Timing,
    Work,
    check_parameters,
    made_up,
    serve,
    time_epochs,
)
from cnnjax.errors import UserError

VARIANTS = {
    "eager": (False, torch.contiguous_format),
    "eager, channels_last": (False, torch.channels_last),
    "torch.compile": (True, torch.contiguous_format),
    "torch.compile, channels_last": (True, torch.channels_last),
}


def lenet() -> Any:
    """Return the network of cnnjax's `models/lenet.py`."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.Sigmoid(), nn.Linear(120, 84), nn.Sigmoid(), nn.Linear(84, 10),
    )  # fmt: skip


MODELS = {"lenet": lenet}


def train(work: Work) -> Timing:
    """Time every variant; the eager ones must work, the compiled ones may fail where there is no compiler."""
    device = _device(work)
    timings: dict[str, Timing] = {}
    told = []
    for name, (compiled, memory_format) in VARIANTS.items():
        try:
            timings[name] = _train(work, device, name, compiled, memory_format)
            told.append(f"{name} {1000 * timings[name].seconds / work.steps:.1f} ms/step")
        except Exception as error:
            if not compiled:
                raise
            told.append(f"{name} failed ({type(error).__name__})")
    best = min(timings, key=lambda name: timings[name].seconds)
    return timings[best].replace(how=f"{best}, the fastest of: {'; '.join(told)}")


def _device(work: Work) -> Any:
    if work.platform == "tpu" or (work.platform == "cuda" and not torch.cuda.is_available()):
        raise UserError(f"this PyTorch {torch.__version__} does not run on {work.platform}")
    on_gpu = work.platform == "cuda" or (work.platform == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if on_gpu else "cpu")


def _train(work: Work, device: Any, how: str, compiled: bool, memory_format: Any) -> Timing:
    torch.manual_seed(0)
    model = MODELS[work.model]().to(device, memory_format=memory_format)
    parameters = check_parameters(work, sum(parameter.numel() for parameter in model.parameters()))
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    split = made_up(work)
    images = torch.from_numpy(split.images).permute(0, 3, 1, 2).contiguous().to(device)
    labels = torch.from_numpy(split.labels).long().to(device)
    mean, std = (torch.tensor(values, device=device).reshape(1, -1, 1, 1) for values in (MEAN, STD))

    def forward(picked_images: Any, picked_labels: Any) -> tuple[Any, Any]:
        logits = model((picked_images.float() / 255 - mean) / std)
        correct = (logits.argmax(dim=1) == picked_labels).sum()
        return nn.functional.cross_entropy(logits, picked_labels), correct

    run_forward: Callable[[Any, Any], tuple[Any, Any]] = torch.compile(forward) if compiled else forward

    def run(steps: int) -> None:
        """Train on that many batches in a new order; ends when the device has ended."""
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
        loss_sum.item(), correct_sum.item()

    started = time.perf_counter()
    run(1)
    first_step = time.perf_counter() - started
    run(min(WARM_UP_STEPS, work.steps))
    return Timing(
        how=how,
        packages=(f"torch {torch.__version__}",),
        platform=work.platform,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        parameters=parameters,
        first_step_seconds=first_step,
        epoch_seconds=time_epochs(work, lambda epoch: run(work.steps)),
    )


if __name__ == "__main__":
    serve(train)
