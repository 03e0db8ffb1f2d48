"""Photos decoded during training: a killed trainer, a photo that vanishes or is damaged, a disk that hangs."""

import os
import signal
from pathlib import Path

import numpy as np
from PIL import Image

from tests.faults.disks import run_trial
from tests.faults.harness import Harness, Row, check, epochs_done, finish, running, wait_for

SIZE, PER_CLASS = 12, 60
SLOW = """
import threading
from pathlib import Path
from cnnjax.data import decoding, image_folder, photos

decoding.WAIT_SECONDS = 3
_read = photos.Photos.read_crops


def read_crops(self, indices, boxes):
    if Path(HANGS).exists():
        read = self.files.read
        self.files = self.files._replace(read=lambda name: threading.Event().wait() or read(name))
    return _read(self, indices, boxes)


photos.Photos.read_crops = read_crops
"""
"""Start of an experiment file whose photo reads hang once the file HANGS exists."""


def options(folder: Path) -> tuple[object, ...]:
    """Write photos of two classes; return the options that train on them."""
    rng = np.random.default_rng(0)
    for part, count in (("train", PER_CLASS), ("test", 10)):
        for name, level in (("cat", 60), ("dog", 160)):
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                pixels = rng.integers(level, level + 60, (30 + index % 9, 40, 3), np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{index:03d}.jpg")
    return (
        "--data.source", "image_folder", "--data.dir", folder, "--data.size", SIZE, "--data.stream", "always",
        "--model.channels", 3, "--model.num-classes", 2, "--augmentation.pad-crop", 0, "--augmentation.crop-area", 0.3,
        "--train.epochs", 5,
    )  # fmt: skip


def killed_while_decoding(harness: Harness) -> Row:
    """Kill a trainer that streams photos; it must leave no process, and resume with the same bits."""

    def trial() -> str:
        photos = options(harness.folder / "photos")
        run = harness.new_run("streamed")
        for epochs in (1, 3):
            with running(harness.start(run, *photos)) as process:
                wait_for(process, lambda epochs=epochs: epochs_done(run) >= epochs)
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
                check(not children.exists() or not children.read_text(), "decoding uses other processes")
                process.send_signal(signal.SIGKILL)
                process.wait()
        harness.resume(run, *photos)
        return "decoding threads end with the process"

    return run_trial("SIGKILL while photos are streamed", trial)


def photo_lost(harness: Harness) -> Row:
    """Delete and damage photos during a run; once they are restored, the same command must resume."""

    def trial() -> str:
        photos = options(harness.folder / "changing")
        for damage in ("deleted", "damaged"):
            run = harness.new_run(f"photo-{damage}")
            names = sorted((harness.folder / "changing/train").rglob("*.jpg"))
            contents = {path: path.read_bytes() for path in names}
            with running(harness.start(run, *photos)) as process:
                wait_for(process, lambda run=run: epochs_done(run) >= 1)
                for path in names:
                    if damage == "deleted":
                        path.unlink()
                    else:
                        path.write_bytes(contents[path][:200])
                finish(process).check_error(2, "cannot be read as an image")
            for path, content in contents.items():
                status = path.stat() if path.exists() else None
                path.write_bytes(content)
                if status:
                    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            harness.resume(run, *photos)
        return "the photo is named; once it is back, the run resumes"

    return run_trial("photo deleted or damaged while photos are streamed", trial)


def disk_hangs(harness: Harness) -> Row:
    """Let every read of a photo hang; the training must end with an error, and resume once the disk answers."""

    def trial() -> str:
        photos = options(harness.folder / "photos-behind-a-slow-disk")
        run = harness.new_run("hanging")
        hangs = harness.folder / "hangs"
        slow = harness.folder / "slow.py"
        slow.write_text(SLOW.replace("HANGS", repr(str(hangs)), 1) + harness.experiment.read_text())
        with running(harness.start(run, *photos, experiment=slow)) as process:
            wait_for(process, lambda: epochs_done(run) >= 1)
            hangs.touch()
            finish(process).check_error(2, "was not read and decoded within 3 s; check the disk")
        hangs.unlink()
        harness.resume(run, *photos)
        return "the photo is named; once it can be read, the run resumes"

    return run_trial("disk hangs while photos are streamed", trial)
