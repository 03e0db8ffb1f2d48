import re
import shutil

import jax
import numpy as np
import pytest
from conftest import write_digits
from PIL import Image
from rich.console import Console

from cnnjax import create, data, report
from cnnjax.config import Augmentation, Data, Train
from cnnjax.data import DeviceSplit, epoch_order
from cnnjax.errors import UserError
from cnnjax.optim import make_hyperparameters
from cnnjax.report import page
from cnnjax.runs import launch, predictor
from cnnjax.runs.evaluation import evaluate, print_report
from cnnjax.training.state import init_state, step_key
from cnnjax.training.step import augmented, make_dispatch

PICTURES = ("curves", "confusion", "mistakes", "filters", "examples")


@pytest.fixture(scope="module", params=["lenet", pytest.param("mlp", marks=pytest.mark.trains_long)])
def run(request, digits, tmp_path_factory):
    """A finished run of each family."""
    from cnnjax.config import Experiment

    experiment = Experiment(
        model=create(request.param, activation="relu"),
        data=Data(source="mnist", dir=str(digits), validation=0.2),
        train=Train(epochs=2, batch_size=32),
    )
    folder = tmp_path_factory.mktemp("runs") / "run"
    console = Console(record=True, width=100, force_terminal=False)
    results = launch.run(launch.Launch("tiny", experiment, folder), console)
    return experiment, folder, results, console.export_text()


def test_every_image_exists_and_is_not_blank(run):
    _, folder, _, _ = run
    for name in PICTURES:
        with Image.open(folder / f"{name}.png") as image:
            pixels = np.asarray(image.convert("L"), np.float64)
        assert min(pixels.shape) > 150, name
        assert pixels.std() > 10, name
        assert len(np.unique(pixels)) > 20, name


def test_the_page_embeds_its_images_and_loads_nothing(run):
    _, folder, results, _ = run
    text = (folder / "report.html").read_text()
    assert (
        text.count("data:image/png;base64,") == len(PICTURES) - 1 + (folder / "stages.png").exists()
    )  # curves are SVG
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert f"{100 * results['test']['top1']:.2f} %" in text
    assert "early_stopping.patience" in text


def test_the_table_shows_loss_and_top1_of_every_part(run):
    _, folder, results, text = run
    for part in ("train", "validation", "test"):
        assert f"{results[part]['loss']:.4f}" in text
        assert f"{100 * results[part]['top1']:.2f} %" in text
    assert "images/s" in text
    assert "best epoch:" in text
    assert results["test"]["images"] == 130


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}


def test_a_finished_run_prints_its_results_again(run):
    experiment, folder, results, _ = run
    before = times(folder)
    console = Console(record=True, width=100)
    assert launch.run(launch.Launch("tiny", experiment, folder), console) == results
    assert "is already finished" in console.export_text()
    assert times(folder) == before


def test_a_finished_run_refuses_other_data(run, tmp_path):
    experiment, folder, _, _ = run
    write_digits(tmp_path / "others", train=410)
    other = experiment.replace(data=experiment.data.replace(dir=str(tmp_path / "others")))
    with pytest.raises(UserError, match=r"was trained on other data \(sha256 [0-9a-f]{12}, given [0-9a-f]{12}\)"):
        launch.run(launch.Launch("tiny", other, folder), Console(quiet=True))


@pytest.mark.trains_long
def test_a_run_killed_during_its_report_writes_it_again(run, tmp_path):
    experiment, folder, results, _ = run
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "results.json").unlink()
    (copy / "confusion.png").unlink()
    repeated = launch.run(launch.Launch("tiny", experiment, copy), Console(record=True, width=100))
    assert repeated == results
    for name in PICTURES:
        assert (copy / f"{name}.png").read_bytes() == (folder / f"{name}.png").read_bytes(), name


def test_a_run_stores_its_classes_and_preprocessing(run, tmp_path):
    experiment, folder, results, _ = run
    network = predictor.load(folder)
    assert network.arch == experiment.model
    assert network.classes == tuple("0123456789")
    assert network.preprocessing.mean == (0.1307,)
    Image.new("RGB", (40, 60), "white").save(tmp_path / "photo.png")
    (answers,) = network.top(network.read([str(tmp_path / "photo.png")]), 3)
    assert len(answers) == 3
    assert sorted((p for _, p in answers), reverse=True) == [p for _, p in answers]


def test_the_examples_are_those_of_the_first_step(experiment):
    experiment = experiment.replace(augmentation=Augmentation(pad_crop=4, flip=True))
    dataset = data.load(experiment.data)
    seen = []

    def spy(state, batch, key, hyperparameters):
        images, _ = augmented(experiment.augmentation, batch.images, key)
        jax.debug.callback(lambda *arrays: seen.extend(arrays), images, batch.targets)
        return state._replace(step=state.step + 1)

    batch, count = experiment.train.batch_size, len(dataset.train.labels)
    values = make_hyperparameters(experiment, count // batch)
    state = init_state(experiment, values)
    order = jax.device_put(epoch_order(experiment.seed, 0, count))
    dispatch = make_dispatch(spy, batch, count // batch)
    dispatch(state, DeviceSplit(*dataset.train), order, step_key(experiment.seed), values, steps=1)
    jax.effects_barrier()
    drawn = report._first_batch(experiment, dataset)
    assert np.array_equal(drawn.images, seen[0])
    assert np.array_equal(drawn.labels, seen[1])


@pytest.mark.trains_long
def test_class_names_are_escaped(experiment, tmp_path):
    """Class names are treated neither as formulas nor as markup."""
    names = ("$x^$", "[red]", "\\frac", "<b>", *"456789")
    for part in ("train", "test"):
        for label, name in enumerate(names):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for n in range(4):
                pixels = np.full((28, 28), 20 * label + n, np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / part / name / f"{n}.png")
    place = Data(source="image_folder", dir=str(tmp_path / "images"), validation=0.25)
    experiment = experiment.replace(data=place, train=Train(epochs=1, batch_size=10))
    console = Console(record=True, width=100, force_terminal=False)
    launch.run(launch.Launch("tiny", experiment, tmp_path / "run"), console)
    network, dataset = predictor.load(tmp_path / "run"), data.load(place)
    print_report(evaluate(network, dataset, "test"), network, dataset, "test", console)
    text = console.export_text()
    assert all(name in text for name in names)


def test_a_shortened_name_gives_no_wrong_command():
    command = page.provenance("lenet_mini,seed=1,train.epochs=2", {})[0][1]
    assert command == "python scripts/train.py lenet_mini --seed 1 --train.epochs 2"
    command = page.provenance("lenet_mini,seed=1,tr-8914825e", {})[0][1]
    assert command == "python scripts/train.py config.json (in the run folder)"
