"""The variables before the first step: a function of the network, the seed and the data."""

import numpy as np

from cnnjax.config import Experiment
from cnnjax.data import Dataset, epoch_order, normalize
from cnnjax.functional import Variables
from cnnjax.training.state import drawn_variables


def initial_variables(experiment: Experiment, dataset: Dataset) -> Variables:
    """Return the variables drawn from the seed, after the network's `data_init` on training images.

    These are the first images of the first epoch, without augmentation, so the same seed and data give the same
    variables.
    """
    arch, variables = experiment.model, drawn_variables(experiment)
    if not arch.init_images:
        return variables
    picked = epoch_order(experiment.seed, 0, len(dataset.train.labels))[: arch.init_images]
    images = np.asarray(normalize(dataset.preprocessing, dataset.train.read(picked), arch.dtype))
    return variables._replace(params=arch.data_init(variables.params, images))
