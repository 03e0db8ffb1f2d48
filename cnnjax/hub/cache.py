"""The cache of published networks. Each is downloaded or put once, verified, converted and kept as a checkpoint.

    NAME/run/            the converted network, a run folder
    NAME/record.json     size and sha256 of the file that it was made from; they are required from then on
    NAME/FILE.part       an unfinished download
    NAME/damaged-*       what did not match its hash or could not be read; it is never loaded

Set $CNNJAX_PRETRAINED to use another folder, $CNNJAX_MIRROR to download from a server that has the files under their
names, and HF_HUB_OFFLINE=1 to prevent downloads.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from cnnjax.checkpoint.verify import OutOfReach
from cnnjax.convert import largest_file, load_weights
from cnnjax.convert.folder import write_run
from cnnjax.errors import UserError
from cnnjax.functional import Variables
from cnnjax.hub.descriptions import arch_of, classes_of, preprocessing_of
from cnnjax.hub.download import Unreachable, download
from cnnjax.hub.progress import download_bar, notice
from cnnjax.hub.verification import Digests, digests, mismatch, record, recorded_sha256
from cnnjax.pretrained import Published
from cnnjax.runs import predictor
from cnnjax.runs.predictor import Predictor
from cnnjax.system.compilation import cache_folder
from cnnjax.system.files import free_name, make_folder, remove
from cnnjax.system.formats import NewerFormat
from cnnjax.system.lock import waiting_for

RUN, LOCK = "run", ".lock"
HUB = "https://huggingface.co"


def root() -> Path:
    """Return the folder of the cache."""
    if chosen := os.environ.get("CNNJAX_PRETRAINED"):
        return Path(chosen).expanduser()
    if (programs := cache_folder()) is None:
        raise UserError("CNNJAX_CACHE is 0, so there is no cache; set CNNJAX_PRETRAINED to a folder for the networks")
    return programs.parent / "pretrained"


def is_cached(entry: Published) -> bool:
    """Return whether the network is in the cache; it is verified when it is loaded."""
    try:
        return (root() / entry.name / RUN).is_dir()
    except UserError:  # there is no cache
        return False


def load(entry: Published) -> Predictor:
    """Return a network from the cache; download it first if it is missing or damaged.

    Raises:
        UserError: it cannot be downloaded, or the file is not the published one.
    """
    with _locked(entry) as folder:
        network = _load(entry, folder) or _fetch(entry, folder)
        _part(entry, folder).unlink(missing_ok=True)
        return network


def put(entry: Published, file: Path) -> Predictor:
    """Convert a weight file that was fetched by hand, and keep the network in the cache.

    Raises:
        UserError: the file cannot be read, is not the published one, or does not fit the network.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}; give the file of {entry.name}, {entry.file_name}")
    with _locked(entry) as folder:
        found = digests(file)
        if problem := mismatch(entry, folder, found):
            raise UserError(f"{file} {problem}; give the file from {entry.address}")
        return _keep(entry, folder, load_weights(arch_of(entry), entry.source, file), found)


@contextlib.contextmanager
def _locked(entry: Published) -> Iterator[Path]:
    """Yield the network's folder while no other process changes it."""
    folder = root() / entry.name
    make_folder(folder)
    waits = lambda: notice(f"another process is preparing {entry.name}; waiting for it")  # noqa: E731
    with waiting_for(folder / LOCK, waits):
        for leftover in folder.glob(f".{RUN}.*"):  # of a process that was killed while it converted
            remove(leftover)
        yield folder


def _load(entry: Published, folder: Path) -> Predictor | None:
    """Return the network, or None if it is missing; set a damaged one aside."""
    run = folder / RUN
    if not run.is_dir():
        return None
    try:
        return predictor.load(run)
    except (OutOfReach, NewerFormat):
        raise
    except UserError as error:
        notice(f"{error}; it is kept as {_set_aside(run).name}")
        return None


def _set_aside(path: Path) -> Path:
    renamed = free_name(path.with_name(f"damaged-{path.name}"))
    path.rename(renamed)
    return renamed


def _fetch(entry: Published, folder: Path) -> Predictor:
    address = _address(entry)
    by_hand = (
        f"get the file on another machine and run: python scripts/pretrained.py put {entry.name} {entry.file_name}"
    )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UserError(
            f"{entry.name} is not in the cache and HF_HUB_OFFLINE is set; unset it to download {address}, or {by_hand}"
        )
    part = _part(entry, folder)
    resume = bool(entry.hash or recorded_sha256(folder))  # otherwise, two versions of the file could be mixed
    try:
        with download_bar(address) as report:
            download(address, part, largest_file(arch_of(entry)), report, resume=resume)
    except Unreachable as error:
        raise UserError(f"{entry.name} is not in the cache and {error}; {by_hand}") from error
    found = digests(part)
    if problem := mismatch(entry, folder, found):
        raise UserError(
            f"{address} {problem}; the download is kept as {_set_aside(part)}; run the same command to download it "
            "again"
        )
    if entry.hash:  # otherwise, it is the right file only if it fits the network
        record(entry, folder, entry.file_name, found)
    try:
        variables = load_weights(arch_of(entry), entry.source, part)
    except UserError as error:
        raise UserError(f"{error}; the download is kept as {_set_aside(part).name}") from error
    return _keep(entry, folder, variables, found)


def _part(entry: Published, folder: Path) -> Path:
    """Return the file of an unfinished download."""
    return folder / f"{entry.file_name}.part"


def _address(entry: Published) -> str:
    """Return the address of the file on the user's mirror, the user's hub, or the publisher's server."""
    if mirror := os.environ.get("CNNJAX_MIRROR"):
        return f"{mirror.rstrip('/')}/{_mirrored_name(entry)}"
    if (hub := os.environ.get("HF_ENDPOINT")) and entry.address.startswith(HUB):
        return hub.rstrip("/") + entry.address.removeprefix(HUB)
    return entry.address


def _mirrored_name(entry: Published) -> str:
    """Return the file's name on a mirror. All files on the hub share a name, so the network's name is put first."""
    return f"{entry.name}.{entry.file_name}" if entry.address.startswith(HUB) else entry.file_name


def _keep(entry: Published, folder: Path, variables: Variables, found: Digests) -> Predictor:
    """Write the network's run folder, and record the hash of the file that it was made from."""
    run = folder / RUN
    if run.is_dir():
        remove(run)
    origin = {"model": entry.name, "source": entry.source, "file": entry.file_name, "sha256": found.sha256}
    write_run(run, arch_of(entry), variables, classes_of(entry), preprocessing_of(entry), origin)
    record(entry, folder, entry.file_name, found)
    return predictor.load(run)
