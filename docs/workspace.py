"""Prepare a guide: work in a temporary folder that sees the scripts and experiments of this checkout.

A guide is a page of this folder that runs its cells each time the site is built. Its first cell is
``%run workspace.py``.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from IPython import get_ipython


def run(command: str) -> None:
    """Run a ``!`` line and print its output; a command that fails ends the build.

    Instead of a terminal, the command writes to a pipe, so that scripts print no live progress.
    """
    done = subprocess.run(command, shell=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout, end="")
    done.check_returncode()


checkout = Path.cwd().parent
folder = tempfile.mkdtemp(prefix="cnnjax-guide-")
atexit.register(shutil.rmtree, folder, ignore_errors=True)
os.chdir(folder)
for name in ("scripts", "experiments"):
    Path(name).symlink_to(checkout / name)
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # for cells such as !python
os.environ["COLUMNS"] = "100"  # width of tables
for name in ("FORCE_COLOR", "CLICOLOR_FORCE"):  # set by ipykernel
    os.environ.pop(name, None)
plt.rcParams.update({"figure.figsize": (6, 2.4), "figure.constrained_layout.use": True, "figure.dpi": 110})
get_ipython().system = run
