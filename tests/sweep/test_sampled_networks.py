"""Design spaces as an axis of a sweep: the drawn networks, the error EDF and its band, sentence, page, record."""

import shutil

import numpy as np
import pytest

from cnnjax.config import Data, Experiment
from cnnjax.design_spaces import Budget, estimated_multiply_adds, sample
from cnnjax.errors import UserError
from cnnjax.functional import abstract_variables, leaves_by_path
from cnnjax.models.lenet import LeNet
from cnnjax.models.regnet import AnyNet
from cnnjax.sweep import Sweep, grid, records, sampled_networks, store
from cnnjax.sweep.axes import DESIGN_SPACE
from cnnjax.sweep.edf import Edf, band_half, edf_sentences, edfs
from cnnjax.sweep.members import expand, select
from cnnjax.sweep.page import rebuild
from cnnjax.sweep.statistics import axes_of
from cnnjax.sweep.table import read_rows
from tests.sweep.made_up import make_store

MODEL = AnyNet(input_size=32, stem="cifar", num_classes=10)
BASE = Experiment(model=MODEL, data=Data(source="cifar10"))
BUDGET = Budget(multiply_adds=(0, 20e6))
SPACES = ("AnyNetXA", "RegNetX")


def axis(count=3, **options):
    return sampled_networks(MODEL, SPACES, count, budget=BUDGET, **options)


def test_members_are_the_drawn_networks_and_labelled_with_their_space():
    members = expand(BASE, Sweep(axes=(axis(),)))
    assert [member.values[DESIGN_SPACE] for member in members] == ["AnyNetXA"] * 3 + ["RegNetX"] * 3
    for space in SPACES:
        drawn = sample(space, 3, 0, BUDGET, input_size=32, stem="cifar", num_classes=10)
        selected = select(members, (f"design_space={space}",))
        for member, network in zip(selected, drawn, strict=True):
            model = member.experiment.model
            assert model.plan() == network.plan()
            assert estimated_multiply_adds(model) == estimated_multiply_adds(network) <= 20e6
    assert axis(2).points == axis().points[:2] + axis().points[3:5]
    assert axis(2, seed=1).points != axis(2).points


@pytest.mark.compiles_large
@pytest.mark.parametrize("space", ["RegNetX", "RegNetY"])
def test_a_regnet_as_an_anynet_has_the_same_parameters(space):
    [regnet] = sample(space, 1, 0, BUDGET, input_size=32, stem="cifar", num_classes=10)
    sweep = Sweep(axes=(sampled_networks(MODEL, (space,), 1, budget=BUDGET),))
    [member] = expand(BASE, sweep)
    shapes = [
        {path: leaf.shape for path, leaf in leaves_by_path(abstract_variables(arch).params).items()}
        for arch in (regnet, member.experiment.model)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LeNet(), SPACES, 3), "sampled_networks is given a LeNet; give an AnyNet"),
        ((MODEL, ("RegNetX", "RegNetX"), 3), "it must be one or more different names"),
        ((MODEL, SPACES, 0), "the number of networks is 0; it must be 1 or more"),
        ((MODEL, ("RegNetZ",), 3), "unknown design space 'RegNetZ'"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        sampled_networks(*arguments)


def test_a_label_alone_does_not_make_a_member():
    with pytest.raises(UserError, match="two members are the same experiment"):
        expand(BASE, Sweep(axes=(grid(DESIGN_SPACE, ("a", "b")),)))


def test_the_share_counts_networks_with_at_most_the_error():
    curve = Edf("A", (10.0, 20.0, 20.0, 40.0), 0.3)
    assert [curve.share(error) for error in (9.9, 10, 20, 39, 40)] == [0, 0.25, 0.75, 0.75, 1]
    assert curve.band(9.9) == (0.0, 0.3)
    assert curve.band(20) == (0.45, 1.0)


@pytest.mark.many_inputs
def test_the_band_covers_the_true_distribution_about_as_often_as_it_says():
    """For errors drawn uniformly from [0, 1], the true EDF at e is e; its largest deviation is at a step."""
    rng, covered = np.random.default_rng(3), 0
    for _ in range(100):
        errors = np.sort(rng.random(30))
        after = np.arange(1, 31) / 30
        deviation = max(np.abs(after - errors).max(), np.abs(after - 1 / 30 - errors).max())
        covered += deviation <= band_half(errors.tolist())
    assert 85 <= covered < 100
    assert band_half([10.0] * 5) == 0
    assert band_half(errors.tolist(), 3) > band_half(errors.tolist())


def test_a_difference_is_found_only_where_the_bands_are_disjoint():
    good, bad = Edf("good", tuple(map(float, range(10, 40))), 0.25), Edf("bad", tuple(map(float, range(40, 70))), 0.25)
    assert edf_sentences([bad, good]) == [
        "design_space: good over bad: 100 % [75, 100] of its networks have a test error of at most 39.00 %, against "
        "0 % [0, 25] (30 networks each)."
    ]
    similar = Edf("similar", tuple(error + 2 for error in good.errors[:29]), 0.25)
    assert edf_sentences([good, similar]) == [
        "design_space: no difference found between good and similar, because their bands overlap at every error (30 "
        "networks and 29 networks)."
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A made-up sweep of 12 networks each, two seeds: networks of RegNetX are better, and one of AnyNetXA diverged."""
    sweep = Sweep(axes=(axis(12), grid("seed", (0, 1))))
    places = {point: number for number, point in enumerate(sweep.axes[0].points)}

    def top1_of(values):
        number = places[tuple(values[option] for option in sweep.axes[0].options)]
        if number == 0 and values["seed"] == 0:
            return None
        return (0.5 if values[DESIGN_SPACE] == "AnyNetXA" else 0.8) + 0.01 * (number % 12) + 0.002 * values["seed"]

    folder = make_store(tmp_path_factory.mktemp("store"), "spaces", sweep, top1_of, BASE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnnjax.sweep.figures.write", lambda *_: None)  # the record's test draws the picture
        rebuild(folder)
    return folder


def test_the_errors_are_means_over_seeds_and_a_diverged_network_counts(folder):
    description = store.read_description(folder)
    rows = read_rows(folder.parent, description)
    anynet, regnet = edfs(axes_of(description), rows)
    assert (anynet.space, regnet.space) == SPACES
    assert len(anynet.errors) == len(regnet.errors) == 12
    assert regnet.errors[0] == pytest.approx(100 - 91.1)
    assert anynet.errors[-1] == pytest.approx((100 + 49.8) / 2)
    missing = [row._replace(status="missing") if row.member == rows[-1].member else row for row in rows]
    assert [len(curve.errors) for curve in edfs(axes_of(description), missing)] == [12, 11]


def test_the_page_shows_the_curves_with_their_bands(folder):
    text = (folder / "report.html").read_text()
    assert "<h2>Design spaces</h2>" in text
    assert "RegNetX over AnyNetXA: 100 % [" in text
    assert text.count('<polygon class="band') == 2


def test_a_recorded_sweep_gives_a_section_with_a_picture_instead_of_all_networks(folder, tmp_path):
    shutil.copytree(folder.parent, tmp_path / "store")
    records.record(tmp_path / "store" / "spaces", tmp_path / "records")
    (section,) = records.sections(tmp_path / "records")
    assert "- design_space: RegNetX over AnyNetXA: 100 % [" in section
    assert "(images/spaces_edf.svg)" in section
    assert "| RegNetX | 12 | 8.90 % | 14.40 % | 14.40 % |" in section
    assert section.count("\n| ") == 4
    (picture,) = records.pictures(tmp_path / "records").items()
    assert picture[0] == "images/spaces_edf.svg"
    assert picture[1].startswith(b"<?xml")
