import jax
import pytest

from cnnjax import init
from cnnjax.benchmark import memory, page
from cnnjax.benchmark.memory import MemoryOptions, Row, Work, largest_batch, step_bytes
from cnnjax.config import Optimizer
from cnnjax.errors import UserError
from cnnjax.models import create


def size_of(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.compiles_large
def test_a_step_holds_state_batch_and_saved_activations():
    arch, batch = create("mlp"), 1024
    params = size_of(init(arch, jax.random.key(0)).params)
    images = batch * 28 * 28
    kept = 4 * batch * (28 * 28 + 300 + 100 + 10)  # the normalized images and each layer's activations
    peak = step_bytes(arch, Optimizer(name="momentum"), batch)
    assert 2 * params + images + kept < peak < 4 * params + images + 2 * kept
    # adam keeps two values per parameter and momentum one; the extra value is updated in place.
    assert step_bytes(arch, Optimizer(name="adam"), batch) - peak == pytest.approx(params, rel=0.1)


@pytest.mark.compiles_large
@pytest.mark.parametrize("depths", [(3, 3), (4, 4)])
def test_remat_and_accumulate_save_memory(depths):
    arch = create("resnet18", depths=depths, width=8, input_size=28, channels=1, num_classes=10, stem="cifar")
    everything = step_bytes(arch, Optimizer(), 64)
    assert step_bytes(arch, Optimizer(), 64, remat=("all",)) < 0.8 * everything
    assert step_bytes(arch, Optimizer(), 64, accumulate=2) < 0.8 * everything


@pytest.mark.parametrize("limit", [5_000, 10_000, 100_000, 12_345_678])
@pytest.mark.parametrize("multiple", [1, 8, 24])
@pytest.mark.parametrize("bend", [0.0, 0.3])
def test_the_largest_batch_fits_and_the_next_one_does_not(limit, multiple, bend):
    evaluated = []

    def peak(batch):
        evaluated.append(batch)
        return 3_000 + int(90 * batch + bend * batch * (batch % 7))  # a line with compiler noise

    largest = largest_batch(peak, limit, multiple)
    assert largest % multiple == 0
    if largest:
        assert peak(largest) <= limit
        assert largest in evaluated[:-1]
    if not bend:
        assert peak(largest + multiple) > limit
    assert len(evaluated) < 15


def test_no_batch_fits_if_the_parameters_do_not():
    assert largest_batch(lambda batch: 1_000_000 + batch, 1_000) == 0


def test_memory_limit_is_the_option_or_the_machine_s_memory():
    assert memory.memory_limit(0.5) == 2**29
    assert memory.memory_limit(None) > 2**28


def test_usual_and_requested_memory_options():
    arch = create("resnet20_cifar")
    usual = memory.memory_options(Work(model="resnet20_cifar"), arch)
    assert list(map(str, usual)) == [
        "all activations stored", "--train.remat stem stage1", "--train.remat all", "--train.accumulate 4",
        "--train.remat all --train.accumulate 4",
    ]  # fmt: skip
    assert memory.memory_options(Work(model="resnet20_cifar", batch=(30,)), arch) == usual[:3]
    requested = Work(model="resnet20_cifar", remat=("stage2",), accumulate=2)
    assert memory.memory_options(requested, arch) == [MemoryOptions(), MemoryOptions(("stage2",), 2)]
    with pytest.raises(UserError, match="unknown remat stage 'stag2'"):
        memory.memory_options(requested.replace(remat=("stag2",)), arch)


def test_the_table(monkeypatch):
    work = Work(model="resnet20_cifar", batch=(32, 64), dtype=("float32", "bfloat16"))
    monkeypatch.setattr(memory, "step_bytes", lambda arch, optimizer, batch, remat, accumulate: batch * 2**20)
    rows = list(memory.rows(work, 2**30))
    assert rows[0] == Row("float32", MemoryOptions(), (2**25, 2**26), 1024)
    assert len(rows) == 10
    lines = memory.markdown(work, rows, 2**30).splitlines()
    assert memory.title(work) == "Memory of a training step of resnet20_cifar at 32x32x3 with momentum, cpu"
    assert lines[0] == "|  | batch 32, GiB | batch 64, GiB | largest batch in 1 GiB |"
    assert lines[2] == "| float32, all activations stored | 0.03 | 0.06 | 1,024 |"
    assert {line.count("|") for line in lines if line.startswith("|")} == {5}


@pytest.mark.compiles_large
def test_the_command_prints_and_writes_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "PAGE", tmp_path / "benchmarks.md")
    arguments = ["mlp", "--batch", "8", "--remat", "stage1", "--memory-gib", "0.01", "--platform", "cpu"]
    memory.run(arguments)
    assert not page.PAGE.exists()
    memory.run([*arguments, "--write"])
    for text in (capsys.readouterr().out, page.PAGE.read_text()):
        assert "| float32, --train.remat stage1 | 0.00 | " in text
    assert "## Memory of a training step of mlp at 28x28x1 with momentum, cpu\n" in page.PAGE.read_text()
    assert f"`python scripts/benchmark.py memory {' '.join(arguments)} --write`" in page.PAGE.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["resnet5"], "unknown model 'resnet5'; did you mean"),
        (["mlp", "--batch", "0"], "--batch is"),
        (["mlp", "--batch", "999999999999"], "--batch is (999999999999,); it must be one or more numbers, each from 1"),
        (["mlp", "--batch", "8", "30", "--accumulate", "4"], "--accumulate is 4; it must be a divisor of --batch, 30"),
        (["mlp", "--memory-gib", "0"], "--memory-gib is 0.0; it must be greater than 0"),
        (["mlp", "--dtype", "float16"], "unknown dtype 'float16'; did you mean"),
        (["mlp", "--input-size", "0"], "model.input_size is 0; it must be 1 or more"),
    ],
)
def test_invalid_arguments_are_refused(options, message):
    with pytest.raises(UserError) as error:
        memory.run(options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_compiler_without_memory_analysis_is_refused(monkeypatch):
    monkeypatch.setattr(jax.stages.Compiled, "memory_analysis", lambda self: None)
    with pytest.raises(UserError, match="does not report the memory"):
        step_bytes(create("mlp"), Optimizer(), 8)
