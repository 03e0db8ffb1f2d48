"""A recipe with every option at once: killed and resumed, it ends with the same bits."""

import jax
import numpy as np
import pytest
from conftest import SilentProgress
from PIL import Image

from cnnjax import checkpoint, create
from cnnjax.config import Augmentation, Data, EarlyStopping, Experiment, Optimizer, Schedule, Train
from cnnjax.errors import Interrupted
from cnnjax.optim import make_hyperparameters
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.saving import read_state
from tests.training.test_interrupted import outcome, train

EVERYTHING = Augmentation(
    crop_area=0.3, flip=True, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, auto_augment="randaugment",
    erase=0.5, erase_fill="noise", mixup=0.2, cutmix=1.0, mix_probability=0.8,
)  # fmt: skip
SCHEDULES = {
    "one_cycle": (Schedule(name="one_cycle", end=0.01), EarlyStopping(metric="top1")),
    "plateau": (Schedule(name="plateau", patience=1, factor=0.5), EarlyStopping(metric="loss", patience=5)),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Color photos of three classes, 16 pixels wide and of different heights."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 8)):
        for channel, name in enumerate(("red", "green", "blue")):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 100, (16 + index % 3, 16, 3), np.uint8)
                pixels[..., channel] += 120
                Image.fromarray(pixels).save(folder / part / name / f"{index}.png")
    return folder


def with_everything(photos, schedule):
    chosen, stopping = SCHEDULES[schedule]
    return Experiment(
        model=create("resnet20_cifar", depths=(1,), width=4, num_classes=3, input_size=12, stochastic_depth=0.2),
        data=Data(source="image_folder", dir=str(photos), size=12, validation=0.2),
        augmentation=EVERYTHING,
        optimizer=Optimizer(name="lamb", lr=0.01, weight_decay=0.02, base_batch=32),
        schedule=chosen,
        early_stopping=stopping,
        train=Train(
            epochs=3, batch_size=16, eval_batch_size=24, label_smoothing=0.1, ema_decay=0.9, accumulate=2,
            remat=("all",), balance="sampling",
        ),
    )  # fmt: skip


@pytest.mark.trains_long
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_with_every_option_resumes_to_the_same_bits(photos, tmp_path, schedule):
    experiment = with_everything(photos, schedule)
    train(experiment, tmp_path / "whole", SilentProgress())
    for at in (2, 3, 5):  # polls of each attempt: within an epoch, and within an evaluation
        with pytest.raises(Interrupted):
            train(experiment, tmp_path / "run", SilentProgress(), at)
    train(experiment, tmp_path / "run", SilentProgress())
    whole, resumed = (outcome(experiment, tmp_path / name) for name in ("whole", "run"))
    assert whole[2:] == resumed[2:]
    values = make_hyperparameters(experiment, 10)
    newest = [checkpoint.newest_good(RunFolder(tmp_path / name).checkpoints)[0] for name in ("whole", "run")]
    states = [read_state(saved, experiment, values) for saved in newest]
    assert states[0].ema is not None
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, states), strict=True))
