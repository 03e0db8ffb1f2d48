"""Prepare a guide: work in a temporary folder that sees the scripts and experiments of this checkout.

A guide is a page of this folder that runs its cells each time the site is built. Its first cell is
``%run workspace.py``.
"""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

checkout = Path.cwd().parent
folder = tempfile.mkdtemp(prefix="cnnjax-guide-")
atexit.register(shutil.rmtree, folder, ignore_errors=True)
os.chdir(folder)
for name in ("scripts", "experiments"):
    Path(name).symlink_to(checkout / name)
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # for cells such as !python
os.environ["COLUMNS"] = "100"  # width of tables
plt.rcParams.update({"figure.figsize": (6, 2.4), "figure.constrained_layout.use": True, "figure.dpi": 110})
