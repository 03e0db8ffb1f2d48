"""Rewrite the table of ImageNet's classes from an installed timm, which need not be imported.

usage: python scripts/imagenet_classes.py [SITE_PACKAGES]

SITE_PACKAGES is the folder of an environment with timm 1.0.31, by default that of `make oracle`. The table is
cnnjax/data/imagenet_classes/classes.tsv: WordNet id and name of each class, in the order of the labels.
"""

from pathlib import Path
from typing import Annotated

import tyro

from cnnjax import cli
from cnnjax.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
TIMM = "timm-1.0.31.dist-info"
INFO = Path("timm/data/_info")


def rewrite(arguments: list[str]) -> None:
    """Parse the command line, write the table and its license."""

    def options(
        site_packages: Annotated[Path | None, tyro.conf.Positional] = None, debug: bool = False
    ) -> Path | None:  # fmt: skip
        """Rewrite the table of ImageNet's classes from an installed timm.

        Args:
            site_packages: Folder with timm 1.0.31; by default that of the environment of `make oracle`.
            debug: Show the traceback of an error.
        """
        return site_packages

    folder = cli.parse(options, arguments, "scripts/imagenet_classes.py") or _oracle_packages()
    license_file = folder / TIMM / "licenses" / "LICENSE"
    if not license_file.is_file():
        raise UserError(f"{folder} has no {TIMM}; give the site-packages folder of an environment with timm 1.0.31")

    from cnnjax.data.imagenet_classes import FOLDER, TABLE
    from cnnjax.system.files import write_bytes

    write_bytes(FOLDER / TABLE, table(folder / INFO).encode())
    write_bytes(FOLDER / "LICENSE", license_file.read_bytes())
    print(FOLDER / TABLE)


def _oracle_packages() -> Path:
    folders = sorted(ROOT.glob(".venv-oracle/lib/python*/site-packages"))
    if not folders:
        raise UserError("there is no .venv-oracle; run make oracle, or give a site-packages folder with timm 1.0.31")
    return folders[-1]


def table(info: Path) -> str:
    """Return the table: the id of each class, and its first lemma with spaces as underscores, as Keras writes it."""
    lemmas = dict(line.split("\t") for line in _lines(info / "imagenet_synset_to_lemma.txt"))
    names = {
        wnid: lemmas[wnid].split(",")[0].strip().replace(" ", "_") for wnid in _lines(info / "imagenet_synsets.txt")
    }
    return "".join(f"{wnid}\t{name}\n" for wnid, name in names.items())


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    cli.main(rewrite)
