"""A sweep of LeNet-5 in PyTorch, one member after the other; see `cnnjax.benchmark.sweeping`. Does not import JAX.

The images stay on the device as uint8, the batches are gathered by a permutation, and one compiled forward pass serves
all members: each resets the parameters of the same network.
"""

import json
import sys
from typing import Any

import numpy as np
import torch
from torch import nn

from cnnjax.benchmark import torch_networks
from cnnjax.benchmark.sweeping import BATCH
from cnnjax.benchmark.work import Job

EVALUATION_BATCH = 500


def main(job: str) -> None:
    """Train the members and print the validation top-1 of each."""
    way, images, members, epochs, platform = json.loads(job)
    on_gpu = platform == "cuda" or (platform == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if on_gpu else "cpu")
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as in JAX
    with np.load(images) as arrays:
        parts = {name: torch.from_numpy(arrays[name]).to(device) for name in arrays.files}
    pixels = {part: parts[f"{part}_images"].permute(0, 3, 1, 2).contiguous() for part in ("train", "validation")}
    labels = {part: parts[f"{part}_labels"].long() for part in ("train", "validation")}
    mean, std = (parts[name].float().reshape(1, -1, 1, 1) for name in ("mean", "std"))
    model = torch_networks.lenet(
        Job(task="train", model="lenet", image_shape=(28, 28, 1), num_classes=10, batch=BATCH)
    ).to(device)  # fmt: skip

    def forward(picked: Any, targets: Any) -> tuple[Any, Any]:
        logits = model((picked.float() / 255 - mean) / std)
        return nn.functional.cross_entropy(logits, targets), (logits.argmax(dim=1) == targets).sum()

    run: Any = torch.compile(forward, dynamic=False) if way == "compile" else forward
    for rate, seed in members:
        torch.manual_seed(seed)
        for layer in model:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
        for _ in range(epochs):
            order = torch.randperm(len(labels["train"]), device=device)
            _epoch(run, optimizer, pixels["train"], labels["train"], order)
            top1 = _evaluated(run, pixels["validation"], labels["validation"])
        print(top1)


def _epoch(run: Any, optimizer: Any, pixels: Any, labels: Any, order: Any) -> None:
    """Train an epoch, and fetch its loss and its number of correct predictions, as cnnjax does."""
    losses, correct = torch.zeros((), device=order.device), torch.zeros((), dtype=torch.long, device=order.device)
    for start in range(0, len(order) - BATCH + 1, BATCH):
        picked = order[start : start + BATCH]
        loss, right = run(pixels[picked], labels[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += loss.detach() * BATCH
        correct += right
    losses.item(), correct.item()


def _evaluated(run: Any, pixels: Any, labels: Any) -> float:
    with torch.inference_mode():
        parts = [run(pixels[start:][:EVALUATION_BATCH], labels[start:][:EVALUATION_BATCH])
                 for start in range(0, len(labels), EVALUATION_BATCH)]  # fmt: skip
    return sum(int(right) for _, right in parts) / len(labels)


if __name__ == "__main__":
    main(sys.argv[1])
