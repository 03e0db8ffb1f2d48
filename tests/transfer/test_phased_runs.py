"""Runs with phases: resumed in every phase, on embeddings or not, with evidence of what stayed frozen."""

import json
import shutil

import jax
import numpy as np
import pytest
from conftest import mostly_slow

from cnnjax import create, data, load_pretrained
from cnnjax.config import Phase
from cnnjax.errors import CnnjaxError, Interrupted, UserError
from cnnjax.functional import abstract_variables, embedding_size, leaves_by_path
from cnnjax.runs import predictor
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.origin import read_origin, read_start, start_variables
from cnnjax.runs.phased import fit_phases
from cnnjax.transfer import frozen
from cnnjax.transfer.phases import frozen_patterns
from tests.transfer.trained import BODY, DENSE, PHASES, make_task, transfer_experiment, write_run

POLLS = 5 + 1
"""Polls of an epoch: its steps, and its evaluation batch."""
CLOCK = ("seconds", "images_per_second")


@pytest.fixture(
    scope="module", params=[DENSE, pytest.param(BODY, marks=pytest.mark.compiles_large)], ids=["mlp", "resnet"]
)
def body(request):
    """The network to transfer. The residual network has norms; the dense one compiles faster."""
    return request.param


@pytest.fixture(scope="module")
def origin(body, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("origin"), body)


@pytest.fixture(scope="module")
def transfer(digits, body, origin):
    """Return the experiment with the given changes."""

    def make(**changes):
        return transfer_experiment(
            digits, changes.pop("origin", origin), **{"model": body.replace(num_classes=10), **changes}
        )

    return make


@pytest.fixture(scope="module")
def dataset(transfer, origin):
    experiment = transfer()
    return data.load(experiment.data, like=read_start(experiment, RunFolder(origin / "none")).preprocessing)


def run_phases(experiment, dataset, path, stop_after=None):
    """Train in the folder, and return its outcome and the notices."""
    folder, notices = RunFolder(path), []
    folder.start("run", experiment)
    start = start_variables(experiment, dataset, read_start(experiment, folder), folder)
    outcome, problem = fit_phases(make_task(experiment, dataset, folder, notices, stop_after), start)
    assert problem is None
    return outcome, notices


def same(path, other):
    """Return whether two runs have the same parameters, metrics and figures, bit for bit."""
    a, b = (leaves_by_path(predictor.load(run).variables._asdict()) for run in (path, other))
    rows = [
        [{k: v for k, v in row.items() if k not in CLOCK} for row in RunFolder(run).read_metrics()]
        for run in (path, other)
    ]
    return a.keys() == b.keys() and all(np.array_equal(a[leaf], b[leaf]) for leaf in a) and rows[0] == rows[1]


@pytest.fixture(scope="module")
def uninterrupted(transfer, dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("uninterrupted") / "run"
    return path, *run_phases(transfer(), dataset, path)


def test_phases_train_in_order_and_record_what_stayed_frozen(body, uninterrupted):
    path, outcome, notices = uninterrupted
    assert [(row["epoch"], row["step"], row["phase"]) for row in outcome.rows] == [
        (1, 5, 1), (2, 10, 1), (3, 15, 2), (4, 20, 2), (5, 25, 3),
    ]  # fmt: skip
    assert RunFolder(path).read_metrics() == outcome.rows
    for phase, record in zip(PHASES, outcome.phases, strict=True):
        proof = record["frozen"]
        assert proof["sha256_before"] == proof["sha256_after"]
        assert proof["moments"] == 0
        assert tuple(proof["patterns"]) == frozen_patterns(body, phase)
    assert [record["on_embeddings"] for record in outcome.phases] == [True, False, False]
    counts = [(record["trained_parameters"], record["frozen"]["parameters"]) for record in outcome.phases]
    total = sum(counts[0])
    head = 10 * (embedding_size(body) + 1)
    assert counts[0] == (head, total - head)
    assert counts[2] == (total, 0)
    assert all(sum(pair) == total for pair in counts)
    statistics = sum(leaf.size for leaf in leaves_by_path(abstract_variables(body).batch_stats).values())
    assert [record["frozen"]["statistics"] for record in outcome.phases] == [statistics, statistics, 0]
    assert notices[0] == f"phase 1 of 3, head: {head:,} parameters are trained, {total - head:,} frozen"
    network = predictor.load(path)
    assert network.classes == tuple(map(str, range(10)))
    assert network.preprocessing.mean == (0.3,)  # the network's own
    best = outcome.phases[outcome.best_phase]
    assert best["validation"]["loss"] == min(record["validation"]["loss"] for record in outcome.phases)
    assert best["validation"]["loss"] == pytest.approx(outcome.rows[outcome.best_epoch - 1]["validation_loss"])


def test_only_the_output_layer_of_a_new_head_starts_at_zero(transfer, dataset, origin, tmp_path):
    experiment, folder = transfer(), RunFolder(tmp_path / "run")
    start = start_variables(experiment, dataset, read_start(experiment, folder), folder)
    leaves = leaves_by_path(start.params)
    assert {path for path in leaves if path.endswith("kernel") and not np.any(leaves[path])} == {"head/kernel"}


def test_the_backbone_after_the_head_phase_is_that_of_the_origin(transfer, dataset, origin, tmp_path):
    experiment = transfer(phases=PHASES[:1])
    run_phases(experiment, dataset, tmp_path / "run")
    before, after = (predictor.load(path).variables for path in (origin, tmp_path / "run"))
    a, b = leaves_by_path(before._asdict()), leaves_by_path(after._asdict())
    different = {path for path in a if a[path].shape != b[path].shape or not np.array_equal(a[path], b[path])}
    assert different == {"params/head/bias", "params/head/kernel"}


@pytest.mark.trains_long
@pytest.mark.parametrize(
    "at",
    [2, *(pytest.param(at, marks=pytest.mark.trains_long) for at in (8, 2 * POLLS + 3, 3 * POLLS + 5, 4 * POLLS + 2))],
)
def test_a_run_interrupted_in_any_phase_resumes_to_the_same_bits(transfer, dataset, uninterrupted, tmp_path, at):
    experiment = transfer()
    with pytest.raises(Interrupted):
        run_phases(experiment, dataset, tmp_path / "run", stop_after=at)
    run_phases(experiment, dataset, tmp_path / "run")
    assert same(tmp_path / "run", uninterrupted[0])


def test_a_finished_phase_is_not_trained_again(transfer, dataset, uninterrupted, tmp_path):
    path = shutil.copytree(uninterrupted[0], tmp_path / "run")
    experiment = transfer()
    outcome, notices = run_phases(experiment, dataset, path, stop_after=0)  # nothing is left to interrupt
    assert notices == []
    assert outcome.rows == uninterrupted[1].rows
    record = path / "phases" / "2-stages-1" / "phase.json"
    record.write_text(json.dumps({"phase": 2}))
    with pytest.raises(UserError, match=r"2-stages-1/phase.json is damaged; delete it, then run the same command"):
        run_phases(experiment, dataset, path)


@pytest.mark.parametrize("name", ["initial", "phases", "phases/1-head", "phases/1-head/checkpoints"])
def test_folders_in_which_files_are_deleted_may_not_be_symlinks(transfer, dataset, uninterrupted, tmp_path, name):
    path = shutil.copytree(uninterrupted[0], tmp_path / "run")
    (path / name).rename(tmp_path / "elsewhere")
    (path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"{name} is a symlink, and a run deletes old files there"):
        run_phases(transfer(), dataset, path)


def test_a_run_resumes_without_its_origin(transfer, body, dataset, tmp_path):
    origin = write_run(tmp_path / "origin", body)
    experiment = transfer(origin=origin, phases=PHASES[:1])
    with pytest.raises(Interrupted):
        run_phases(experiment, dataset, tmp_path / "run", stop_after=1)
    shutil.rmtree(origin)
    assert len(run_phases(experiment, dataset, tmp_path / "run")[0].rows) == 2


HIDDEN = {"head_hidden": (12,), "head_dropout": 0.3}


@pytest.mark.trains_long
@pytest.mark.parametrize("options", mostly_slow([{}, HIDDEN, {"head_sigmoid": True}], 1, pytest.mark.trains_long))
def test_training_on_embeddings_gives_the_same_head_as_training_through_the_backbone(
    transfer, body, dataset, origin, digits, tmp_path, options
):
    if not hasattr(body, "head_hidden"):
        options = {}
    classes = ("3", "8") if options.get("head_sigmoid") else ()
    heads = []
    for cached in (True, False):
        phase = Phase(train="head", epochs=2, lr=1e-2, embeddings=cached)
        experiment = transfer(phases=(phase,), model=body.replace(num_classes=len(classes) or 10, **options))
        experiment = experiment.replace(data=experiment.data.replace(classes=classes))
        chosen = data.load(experiment.data, like=dataset.preprocessing) if classes else dataset
        outcome, _ = run_phases(experiment, chosen, tmp_path / f"run-{cached}")
        assert outcome.phases[0]["on_embeddings"] is cached
        assert outcome.phases[0]["frozen"]["sha256_before"] == outcome.phases[0]["frozen"]["sha256_after"]
        heads.append(leaves_by_path(predictor.load(tmp_path / f"run-{cached}").variables.params["head"]))
    for path, leaf in heads[0].items():
        np.testing.assert_allclose(heads[1][path], leaf, rtol=1e-5, atol=1e-5, err_msg=path)


def test_a_changed_frozen_value_is_an_error():
    before = frozen.Frozen(3, 0, "a" * 64)
    frozen.require_unchanged(before, before, 0, "1")
    with pytest.raises(CnnjaxError, match="changed frozen values"):
        frozen.require_unchanged(before, frozen.Frozen(3, 0, "b" * 64), 0, "1")
    with pytest.raises(CnnjaxError, match="1 moments"):
        frozen.require_unchanged(before, before, 1, "1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": "resnet18"}, "unknown pretrained network 'resnet18'"),
        ({"init": "net:resnet18"}, "init is 'net:resnet18'; it must be run:RUN, file:WEIGHTS, folder:DIR"),
        ({"init": "run:nowhere"}, "init is 'run:nowhere', which holds no run"),
        ({"model": BODY.replace(depths=(1, 2), num_classes=10)}, "the experiment's has "),
        ({"model": DENSE.replace(activation="tanh")}, "the experiment's has 'tanh'|has family 'resnet'"),
        ({"phases": ()}, "run:.*: the variables do not match"),
        ({"data": {"size": 12}}, "data.size is 12 and the network takes 28x28 pixels by its own preprocessing"),
    ],
)
def test_origins_that_do_not_fit_are_refused(transfer, dataset, tmp_path, changes, message):
    experiment = transfer()
    if "data" in changes:
        changes = {"data": experiment.data.replace(source="image_folder", **changes["data"])}
    experiment = experiment.replace(**changes)
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match=message):
        start_variables(experiment, dataset, read_start(experiment, folder), folder)
    assert not (tmp_path / "run").exists()


def test_a_run_starts_from_a_network_in_the_package():
    origin = read_origin("lenet.fashion_mnist", create("lenet"))
    expected = load_pretrained("lenet.fashion_mnist")
    assert origin.arch == expected.arch
    assert origin.preprocessing == expected.preprocessing
    assert jax.tree.all(jax.tree.map(np.array_equal, origin.variables, expected.variables))
