"""Prepare a data set of tensorflow-datasets as array_record, in a separate process.

Most builders call TensorFlow while they prepare their files. Training needs no TensorFlow.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

from cnnjax.errors import UserError

PACKAGES = ("tensorflow", "importlib_resources")
"""Packages that tensorflow-datasets imports while it prepares a data set; the tfds-prepare extra installs them."""
EXTRA = "pip install cnnjax[tfds-prepare]"


def prepare(name: str, folder: Path) -> None:
    """Download and prepare a data set; the process prints its progress.

    Args:
        name: NAME or NAME/CONFIG, as tensorflow-datasets calls it.
        folder: the folder of all prepared data sets. Files that are already in its ``downloads`` are not downloaded.

    Raises:
        UserError: a package is missing, or tensorflow-datasets failed.
    """
    if missing := [package for package in PACKAGES if importlib.util.find_spec(package) is None]:
        raise UserError(
            f"preparing tfds:{name} needs {' and '.join(missing)}; run {EXTRA}, here or in another environment, and "
            "then the same command"
        )
    done = subprocess.run([sys.executable, "-m", "cnnjax.data.tfds_prepare", name, str(folder)], check=False)
    if done.returncode:
        raise UserError(
            f"tensorflow-datasets could not prepare {name} (its output is above); check the name and the network, or "
            f"put the files into {folder / 'downloads'}"
        )


def main(name: str, folder: str) -> None:
    """Prepare the data set in this process."""
    import tensorflow_datasets as tfds

    tfds.builder(name, data_dir=folder, file_format="array_record").download_and_prepare()


if __name__ == "__main__":
    main(*sys.argv[1:])
