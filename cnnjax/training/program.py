"""Which training runs share a compiled program."""

from cnnjax.config import Data, EarlyStopping, Experiment, Optimizer, Schedule


def program_of(experiment: Experiment) -> Experiment:
    """Return the experiment with one fixed value in each field that its compiled train step does not depend on.

    Runs for which the returned experiments are equal share one program. They differ only in values that
    `cnnjax.optim.make_hyperparameters` turns into arguments (learning rate, momentum, decay, schedule constants, label
    smoothing), in the seed, and in what the host decides (data, initial parameters, epochs, evaluation, early stopping,
    checkpoints).
    """
    optimizer, schedule, train = experiment.optimizer, experiment.schedule, experiment.train
    return experiment.replace(
        data=Data(),
        optimizer=Optimizer(
            name=optimizer.name, clip_norm=None if optimizer.clip_norm is None else 1.0,
            layer_decay=None if optimizer.layer_decay is None else 1.0,
        ),
        schedule=Schedule(name=schedule.name, boundaries=("1ep",) * len(schedule.boundaries)),
        train=train.replace(
            epochs=1, eval_batch_size=1, views=1, label_smoothing=0.0, keep=1,
            ema_decay=None if train.ema_decay is None else 0.0,
        ),
        early_stopping=EarlyStopping(),
        init=None,
        continue_from=None,
        phases=(),
        seed=0,
    )  # fmt: skip
