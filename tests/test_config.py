import pytest

from cnnjax.config import Data, EarlyStopping, Experiment, Optimizer, Schedule, Train, in_steps
from cnnjax.errors import UserError
from cnnjax.models import create


@pytest.mark.parametrize(("duration", "steps"), [("5ep", 500), ("1000st", 1000), ("0.5ep", 50), ("0ep", 0), ("1st", 1)])
def test_durations(duration, steps):
    assert in_steps(duration, steps_per_epoch=100) == steps


@pytest.mark.parametrize("duration", ["5", "ep", "5 ep", "-1ep", "1.5st", "5epochs", ""])
def test_a_duration_without_its_unit_is_refused(duration):
    with pytest.raises(UserError, match="it must be epochs such as '5ep' or whole steps such as '1000st'"):
        in_steps(duration, 100)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Optimizer(lr=0.0), "optimizer.lr is 0.0"),
        (lambda: Optimizer(lr=-1.0), "optimizer.lr is -1.0"),
        (lambda: Optimizer(lr=float("nan")), "optimizer.lr is nan"),
        (lambda: Optimizer(lr=float("inf")), "optimizer.lr is inf"),
        (lambda: Optimizer(name="adma"), "unknown name 'adma'; did you mean 'adam'"),
        (lambda: Optimizer(momentum=1.0), "optimizer.momentum is 1.0"),
        (lambda: Optimizer(b2=-0.1), "optimizer.b2 is -0.1"),
        (lambda: Optimizer(eps=0.0), "optimizer.eps is 0.0"),
        (lambda: Optimizer(weight_decay=-1e-4), "optimizer.weight_decay is -0.0001"),
        (lambda: Optimizer(clip_norm=0.0), "optimizer.clip_norm is 0.0"),
        (lambda: Data(validation=0.0), "data.validation is 0.0"),
        (lambda: Data(validation=1.0), "data.validation is 1.0"),
        (lambda: Data(split_seed=-1), "data.split_seed is -1"),
        (lambda: Train(epochs=0), "train.epochs is 0"),
        (lambda: Train(batch_size=0), "train.batch_size is 0"),
        (lambda: Train(accumulate=0), "train.accumulate is 0; it must be 1 or more"),
        (lambda: Train(accumulate=3), "train.accumulate is 3; it must be a divisor of train.batch_size, 128"),
        (lambda: Train(remat="all"), "remat is 'all'; it must be a list, each item text"),
        (lambda: Train(label_smoothing=1.0), "train.label_smoothing is 1.0"),
        (lambda: Train(keep=0), "train.keep is 0"),
        (lambda: EarlyStopping(patience=-1), "early_stopping.patience is -1"),
        (lambda: EarlyStopping(min_delta=-0.1), "early_stopping.min_delta is -0.1"),
        (lambda: EarlyStopping(metric="los"), "unknown metric 'los'; did you mean 'loss'"),
        (lambda: Schedule(name="cosin"), "unknown name 'cosin'; did you mean 'cosine'"),
        (lambda: Schedule(name="step"), "schedule.name is 'step' without schedule.boundaries"),
        (lambda: Schedule(factor=0.0), "schedule.factor is 0.0"),
        (lambda: Schedule(end=1.5), "schedule.end is 1.5"),
        (lambda: Schedule(boundaries=("5",)), "schedule.boundaries is '5'"),
        (lambda: Schedule(warmup="x"), "schedule.warmup is 'x'"),
        (lambda: Experiment(model=create("lenet"), seed=-1), "seed is -1"),
        (lambda: Experiment(model="lenet"), "model is 'lenet'"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value).startswith(message)
