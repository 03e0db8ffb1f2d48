"""The PyTorch peer. Eager and compiled variants in both memory layouts race for a few steps; the fastest is measured.

The images stay on the device as uint8. Each training step gathers its batch with a permutation and normalizes it, as
cnnjax does. bfloat16 uses autocast. Does not import JAX.
"""

import gc
import os
import statistics
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

# Cached kernels from an earlier run would make the first step look cheaper than it is.
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"

import torch
from torch import nn

from cnnjax.benchmark import machine, torch_networks
from cnnjax.benchmark.protocol import Prepared, serve, timed
from cnnjax.benchmark.work import LEARNING_RATE, Facts, Job
from cnnjax.errors import UserError

RACE_SECONDS, RACE_LAPS = 0.4, 5
LARGE_SECONDS, VERY_LARGE_SECONDS = 0.3, 2.0
"""Step times above which a network is not compiled in the contiguous layout, or not tried in it at all."""


class Variant(NamedTuple):
    """A combination of execution mode and memory layout."""

    name: str
    compiled: bool
    channels_last: bool


class Candidate(NamedTuple):
    """A variant that works. ``run`` runs a number of steps and returns when the device has finished."""

    name: str
    run: Callable[[int], None]
    parameters: int
    first_step_seconds: float
    step_seconds: float


VARIANTS = (
    Variant("eager channels_last", False, True),
    Variant("torch.compile channels_last", True, True),
    Variant("eager", False, False),
    Variant("torch.compile", True, False),
)


def prepare(job: Job) -> Prepared:
    """Race the variants, with only the fastest so far kept in memory; compiled ones may fail."""
    device = choose_device(job)
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as in JAX
    torch.backends.cudnn.benchmark = True
    best: Candidate | None = None
    reports = []
    for variant in VARIANTS:
        if left_out(variant, job, device, best):
            continue
        try:
            candidate = race(job, device, variant)
        except Exception as error:
            if not variant.compiled:
                raise
            reports.append(f"{variant.name} failed with {type(error).__name__}")
            continue
        reports.append(f"{candidate.name} {1000 * candidate.step_seconds:.1f}")
        best = min((c for c in (best, candidate) if c), key=lambda c: c.step_seconds)
        del candidate
        gc.collect()
    assert best
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    facts = Facts(
        how=f"{best.name}; tried, ms per step: {', '.join(reports)}",
        packages=packages(),
        platform="cuda" if device.type == "cuda" else "cpu",
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        parameters=best.parameters,
        first_step_seconds=best.first_step_seconds,
        step_seconds=best.step_seconds,
    )
    return Prepared(best.run, facts, torch.cuda.max_memory_allocated if device.type == "cuda" else machine.peak_memory)


def choose_device(job: Job) -> Any:
    """Return torch's device for the platform; raise UserError if torch does not support it."""
    if job.platform == "tpu" or (job.platform == "cuda" and not torch.cuda.is_available()):
        raise UserError(f"PyTorch {torch.__version__} does not support {job.platform} here")
    on_gpu = job.platform == "cuda" or (job.platform == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if on_gpu else "cpu")


def left_out(variant: Variant, job: Job, device: Any, best: Candidate | None) -> bool:
    """Return whether to skip a variant: the contiguous layout is rarely faster for a large network."""
    if variant.channels_last or best is None:
        return False
    if device.type == "cuda" and job.dtype == "bfloat16":
        return True
    return best.step_seconds > (LARGE_SECONDS if variant.compiled else VERY_LARGE_SECONDS)


def packages() -> tuple[str, ...]:
    """Return the versions of torch and, if it is loaded, torchvision."""
    loaded = (sys.modules.get(name) for name in ("torch", "torchvision"))
    return tuple(f"{module.__name__} {module.__version__}" for module in loaded if module is not None)


def race(job: Job, device: Any, variant: Variant) -> Candidate:
    """Run the first step, then a few laps, and take the median lap: the first laps may be faster than later ones."""
    torch.manual_seed(0)
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    model = torch_networks.make(job).to(device, memory_format=layout)
    run = (training if job.task == "train" else inference)(job, device, variant, model)
    first = timed(run, 1)
    second = timed(run, 1)
    steps = max(1, round(RACE_SECONDS / second))
    laps = [timed(run, steps) / steps for _ in range(RACE_LAPS)] if second < VERY_LARGE_SECONDS else [second]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Candidate(variant.name, run, parameters, first, statistics.median(laps))


def images_on(job: Job, device: Any, variant: Variant, images: Any) -> Callable[[Any], Any]:
    """Put the images on the device; return a function that picks some as [N, C, H, W] in the layout of the variant."""
    resident = torch.from_numpy(images).to(device)
    if not variant.channels_last:
        resident = resident.permute(0, 3, 1, 2).contiguous()
        return lambda picked: resident[picked]
    return lambda picked: resident[picked].permute(0, 3, 1, 2)


def normalizer(job: Job, device: Any) -> Callable[[Any], Any]:
    mean, std = (torch.tensor(values, device=device).reshape(1, -1, 1, 1) for values in (job.mean, job.std))
    return lambda images: (images.float() / 255 - mean) / std


def autocast(job: Job, device: Any) -> Any:
    return torch.autocast(device.type, torch.bfloat16, enabled=job.dtype == "bfloat16")


def training(job: Job, device: Any, variant: Variant, model: Any) -> Callable[[int], None]:
    """Return a function that trains for a number of steps and fetches the loss and the correct predictions."""
    images, labels = job.made_up()
    pick, normalize = images_on(job, device, variant, images), normalizer(job, device)
    resident_labels = torch.from_numpy(labels).long().to(device)
    rule = torch.optim.Adam if job.optimizer == "adam" else torch.optim.SGD
    momentum = {} if job.optimizer == "adam" else {"momentum": 0.9}
    optimizer = rule(model.parameters(), lr=LEARNING_RATE, fused=True, **momentum)
    order = torch.randperm(len(labels), device=device)
    done = 0

    def forward(picked_images: Any, picked_labels: Any) -> tuple[Any, Any]:
        with autocast(job, device):
            logits = model(normalize(picked_images)).float()
        correct = (logits.argmax(dim=1) == picked_labels).sum()
        return nn.functional.cross_entropy(logits, picked_labels), correct

    model.train()
    run_forward: Any = torch.compile(forward, dynamic=False) if variant.compiled else forward

    def run(steps: int) -> None:
        nonlocal done
        loss_sum, correct_sum = torch.zeros((), device=device), torch.zeros((), dtype=torch.long, device=device)
        for _ in range(steps):
            start = done % job.batches * job.batch
            picked = order[start : start + job.batch]
            loss, correct = run_forward(pick(picked), resident_labels[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * job.batch
            correct_sum += correct
            done += 1
        loss_sum.item(), correct_sum.item()  # fetched, as in cnnjax; this waits for the device

    return run


def inference(job: Job, device: Any, variant: Variant, model: Any) -> Callable[[int], None]:
    """Return a function that computes the logits of a batch repeatedly."""
    pick, normalize = images_on(job, device, variant, job.made_up()[0]), normalizer(job, device)
    images = pick(slice(None))

    def forward(images: Any) -> Any:
        with autocast(job, device):
            return model(normalize(images)).float()

    model.eval()
    run_forward: Any = torch.compile(forward, dynamic=False) if variant.compiled else forward

    def run(steps: int) -> None:
        with torch.inference_mode():
            for _ in range(steps):
                run_forward(images)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


if __name__ == "__main__":
    serve(prepare)
