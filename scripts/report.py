"""Record runs, publish their results, check that a recorded run reproduces, compare runs, and rebuild a sweep's page.

usage: python scripts/report.py --record RUN...           copy the small files of finished runs, or of a sweep, to
                                                          experiments/records
       python scripts/report.py --results                 write docs/results.md and docs/line.md from the records
       python scripts/report.py --check NAME [--seed N] [--data.dir DIR] [--init ORIGIN]
                                                          repeat a recorded run and compare every value
       python scripts/report.py RUN RUN... [--out FILE]   compare runs in one HTML page
       python scripts/report.py SWEEP                     rebuild the table and the page of a sweep, from the folder
                                                          that scripts/sweep.py wrote

--check trains in a temporary folder and reports whether all values are equal bit for bit, or which differ, by how much
and why. Exit code 1: the figures differ.
"""

import tempfile
from pathlib import Path

from cnnjax import cli
from cnnjax.errors import PartlyDone, UserError, choose, listed

ROOT = Path(__file__).resolve().parent.parent
RECORDS, RESULTS = ROOT / "experiments" / "records", ROOT / "docs" / "results.md"


def run(arguments: list[str]) -> None:
    """Parse the command line and run the command."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    command, *rest = arguments
    rest = [argument for argument in rest if argument != "--debug"]
    if command == "--record":
        record(rest)
    elif command == "--results":
        write_results(rest)
    elif command == "--check":
        check(rest)
    elif command.startswith("-"):
        raise UserError(f"the first argument is {command!r}; give --record, --results, --check, or runs to compare")
    elif not rest and (Path(command) / "sweep.json").exists():
        rebuild_sweep(Path(command))
    else:
        compare([command, *rest])


def rebuild_sweep(folder: Path) -> None:
    """Write the table and the page of a sweep again."""
    from cnnjax.sweep import page

    page.rebuild(folder)
    print(f"wrote {folder / 'report.html'}")


def record(runs: list[str]) -> None:
    """Copy the small files of finished runs and sweeps to the records."""
    from cnnjax.runs import records
    from cnnjax.sweep import records as sweep_records

    if not runs:
        raise UserError("--record is given without a run; add one or more run folders")
    for run in map(Path, runs):
        module = sweep_records if (run / "sweep.json").exists() else records
        print(module.record(run, RECORDS).relative_to(ROOT))


def write_results(arguments: list[str]) -> None:
    """Write docs/results.md and docs/line.md, with their pictures."""
    from cnnjax.report import figures
    from cnnjax.runs import line_page, records, results_page
    from cnnjax.sweep import records as sweep_records
    from cnnjax.system.files import write_bytes

    if arguments:
        raise UserError(f"--results is given with {arguments[0]!r}, but accepts no argument; leave it out")
    recorded, line = records.read_records(RECORDS), line_page.read(RECORDS / "line.toml")
    results = results_page.page(recorded, RECORDS / "questions.toml", line.names)
    pages = {RESULTS: "\n".join([results.text, *sweep_records.sections(RECORDS)])}
    if written := line_page.page(line, recorded):
        pages |= dict(zip((RESULTS.with_name("line.md"), RESULTS.with_name(line_page.PICTURE)), written, strict=True))
    for path, text in pages.items():
        write_bytes(path, text.encode())
        print(f"wrote {path.relative_to(ROOT)}")
    for name, figure in results.pictures.items():
        figures.save(figure, RESULTS.parent / name)
        print(f"wrote {(RESULTS.parent / name).relative_to(ROOT)}")


def check(arguments: list[str]) -> None:
    """Repeat a recorded run and compare."""
    arguments, seed = cli.take_option(arguments, "--seed")
    arguments, data_dir = cli.take_option(arguments, "--data.dir")
    arguments, init = cli.take_option(arguments, "--init")
    if len(arguments) != 1:
        raise UserError(
            f"--check is given {len(arguments)} names; give the name of one record, such as --check lenet_mini"
        )
    name = choose("record", arguments[0], (path.name for path in RECORDS.glob("*") if path.is_dir()))
    seeds = sorted((path.name.removeprefix("seed-") for path in (RECORDS / name).glob("seed-*")), key=int)
    record_folder = RECORDS / name / f"seed-{choose('seed', seed or seeds[0], seeds)}"

    import cnnjax
    from cnnjax.runs import records
    from cnnjax.runs.definitions import COPY, of_run

    recorded = records.read_record(record_folder)
    experiment = recorded.experiment
    if data_dir is not None:
        experiment = experiment.replace(data=experiment.data.replace(dir=data_dir))
    if init is not None:
        experiment = experiment.replace(init=init)
    cli.start_jax("auto", recorded.environment["lowering"].get("deterministic", False), experiment.model)
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / name
        definitions = of_run(record_folder, trust_code=(record_folder / COPY).is_file())
        cnnjax.train(experiment, out, name=name, definitions=definitions)
        comparison = records.compare(recorded, records.read_record(out))
    title = f"{name}, seed {recorded.experiment.seed}"
    if comparison.equal:
        print(f"{title}: all {comparison.figures} values are equal bit for bit")
        return
    reasons = [f"{key} was {old!r} and is {new!r}" for key, (old, new) in comparison.reasons.items()]
    raise PartlyDone(
        f"{title}: {comparison.different} of {comparison.figures} values differ, by at most {comparison.largest:.2g}; "
        f"the first: {comparison.first}; likely because {listed(reasons, 3) or 'the code has changed'}"
    )


def compare(arguments: list[str]) -> None:
    """Write a page that compares runs."""
    arguments, out = cli.take_option(arguments, "--out")

    from cnnjax.runs import comparison

    target = Path(out or "comparison.html")
    comparison.write([Path(run) for run in arguments], target)
    print(f"wrote {target}")


if __name__ == "__main__":
    cli.main(run)
