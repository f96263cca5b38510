"""Every table and figure of the papers, and one page that shows them.

Runs the other experiments, each on each data set, two processes at a time where memory
allows, and writes OUTPUT_DIR/report/index.html and OUTPUT_DIR/report/RESULTS.md: what
the papers claim, what was measured here, and whether it held. Killed at any moment, the
same command goes on; an experiment finds the models that another one has trained.

    python -m experiments.reproduce --preset=smoke
    python -m experiments.reproduce --datasets=adult,bank,compas
    python -m experiments.reproduce --datasets=mnist --parts=robustness,case_study
    python -m experiments.reproduce --scheduler=tcp://host:8786
"""

from __future__ import annotations

import ast
import functools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from absl import flags as absl_flags

from experiments.console import flags
from experiments.loop import asked, cluster
from experiments.problems import presets
from experiments.problems.registry import problem
from experiments.report import exhibit
from experiments.reproduce import jobs, remote
from experiments.reproduce import page as report_page
from experiments.store import locks, output
from r2et_jax import checks, datasets

EXPERIMENT = "reproduce"
_CHECKOUT = Path(__file__).resolve().parents[2]
_MEMORY = 5 * 2**30  # of a process, at most
_MOST_WORKERS = 1024
_DONE = "done.json"


class Part(NamedTuple):
    """An experiment, or one more run of it.

    Attributes:
      minutes: on one table at the preset standard, with trained models.
      kinds: of data that it takes; "single" are images by themselves.
      alone: whether it measures times.
      few: whether presets but paper run it on the table with the fewest training
        inputs alone.
      also: data sets of other kinds that it takes besides.
      experiment: its module; "" for the part's own name.
      k: sizes of the top set by kind of data; {} for the experiment's own.
      flags: more of them.
      title: "" for the experiment's own.
      records: part whose measurements it takes by --records; "" for none.
    """

    minutes: float
    kinds: tuple[str, ...] = ("tabular", "image", "graph", "single")
    alone: bool = False
    few: bool = False
    also: tuple[str, ...] = ()
    experiment: str = ""
    k: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    flags: tuple[str, ...] = ()
    title: str = ""
    records: str = ""


class Data(NamedTuple):
    """A data set.

    Attributes:
      kind: of `Part.kinds`.
      num_inputs: of training.
      k: its own size of the top set.
      largest_k: above it nothing is left to rank.
      sha256: of the data, of graphs of the first fold.
    """

    kind: str
    num_inputs: int
    k: int
    largest_k: int
    sha256: str


_MANY = (10, 30, 100)
PARTS = {
    "motivation": Part(1),
    "robustness": Part(30),
    "other_k": Part(
        10,
        experiment="robustness",
        k={"tabular": (2, 5), "image": _MANY, "graph": _MANY, "single": _MANY},
        flags=("--methods=vanilla,wd,sp,r2et_nh,r2et", "--reference_methods="),
        title="How much of smaller and larger top sets survives",
    ),
    "thickness": Part(2),
    "correlation": Part(2),
    "constrained_attack": Part(3, ("tabular", "image", "graph")),
    "tradeoff": Part(3, records="robustness"),
    "sensitivity": Part(8, few=True),
    "gradient_profile": Part(1),
    "explainers": Part(2),
    "faithfulness": Part(2),
    "case_study": Part(1),
    "convergence": Part(3, ("tabular",)),
    "certify": Part(10, ("tabular",)),
    "cost": Part(8, ("tabular",), alone=True, few=True, also=presets.COST_IMAGES),
}


def _define(values):
    absl_flags.DEFINE_list(
        "parts",
        None,
        f"experiments to run, of {', '.join(PARTS)} (default: all)",
        flag_values=values,
    )
    absl_flags.DEFINE_integer(
        "workers",
        None,
        "processes at a time (default: 2 where memory and cores allow)",
        flag_values=values,
    )
    cluster.define(values)
    absl_flags.DEFINE_bool(
        "run",
        True,
        "run what is missing; --norun writes the page of what is there",
        flag_values=values,
    )


FLAGS = flags.describe(
    EXPERIMENT,
    defaults=presets.FLAGS[EXPERIMENT],
    further=("parts", "workers", "run"),
    define=_define,
)


def main(values):
    options = asked.read(FLAGS, values, methods=None)
    for flag in ("methods", "attacks", "k", "epsilon"):
        if options.given[flag] is not None:
            raise ValueError(f"--{flag} has no use here: name it to an experiment")
    cluster.check(options.given["scheduler"])
    given = options.given["parts"]
    wanted = list(PARTS) if given is None else given
    names = flags.parse_names("parts", wanted, known=PARTS)
    if not names:
        raise ValueError("--parts must name at least one, got an empty list")
    workers = options.given["workers"]
    if workers is None:
        workers = jobs.workers_by_memory(_MEMORY)
    flags.check_range("workers", workers, minimum=1, maximum=_MOST_WORKERS)
    # Before any long work: data that were not prepared, folders that cannot be made.
    data = {name: _look(name, options.data_dir) for name in options.datasets}
    options = options._replace(output_dir=options.output_dir.resolve())
    options.output_dir.mkdir(parents=True, exist_ok=True)
    locks.hold(options.output_dir)
    run = options.given["run"]
    cells = _cells(names, data, few=run and options.preset != "paper")
    if not run:
        # What a run leaves out is shown if it is there, and then in its place.
        there = [cell for cell in cells if _folder(*cell, options).is_dir()]
        shown = {part for part, _ in there if PARTS[part].few}
        planned = _cells(names, data, few=options.preset != "paper")
        cells = [
            cell
            for cell in cells
            if cell in there or (cell in planned and cell[0] not in shown)
        ]
        print("\n".join(map(str, write_page(cells, {}, options, data))))
        return
    planned = {
        (part, name): _job(part, name, options, data[name], asked=names)
        for part, name in cells
    }
    marks = {job.name: _mark(job, data[name]) for (_, name), job in planned.items()}
    missing = [job for job in planned.values() if not _is_done(job, marks[job.name])]
    if len(missing) < len(planned):
        print(f"{len(planned) - len(missing)} of {len(planned)} were done before")
    failed = {}

    def ended(job, status):
        if status:
            failed[job.name] = status
        else:
            marker = job.log.with_name(_DONE)
            output.write_text_atomic(marker, json.dumps(marks[job.name]) + "\n")

    waiting = {job.name for job in missing}
    missing = [
        job._replace(after=tuple(n for n in job.after if n in waiting))
        for job in missing
    ]
    run_jobs = functools.partial(
        jobs.run_jobs, missing, show=options.progress, ended=ended
    )
    if (scheduler := options.given["scheduler"]) is None:
        run_jobs(workers=workers)
    else:
        with cluster.connect(scheduler, workers=workers) as client:
            known = max(len(client.nthreads()), 1)
            run_jobs(workers=known, start=remote.starter(client))
    for path in write_page(cells, failed, options, data):
        print(path)
    for job in missing:
        if job.name in failed:
            why = jobs.last_lines(job.log, 1) or [f"exit status {failed[job.name]}"]
            print(f"failed: {job.name}: {why[0]} ({job.log})", file=sys.stderr)
    if failed:
        sys.exit(1)


def _look(name: str, data_dir) -> Data:
    loaded = datasets.load(name, data_dir=data_dir)
    asked_of = problem(loaded)
    alone = asked_of.view.kind == "image" and not asked_of.view.paired
    kind = "single" if alone else asked_of.view.kind
    k = presets.TABULAR_K if asked_of.k is None else asked_of.k
    checks.check_k(k, asked_of.num_features)
    return Data(kind, len(loaded.train.y), k, asked_of.largest_k, asked_of.fingerprint)


def _cells(names, data, *, few) -> list[tuple[str, str]]:
    """(part, data set): first what trains models for the others, last the timings."""
    cells = []
    for part in sorted(
        names, key=lambda name: (name != "robustness", PARTS[name].alone)
    ):
        fitting = [
            name for name, known_data in data.items() if _takes(PARTS[part], known_data)
        ]
        if PARTS[part].few and few and fitting:
            # A table, if there is one: images and graphs take far longer.
            known = [name for name in fitting if data[name].kind == "tabular"]
            fitting = [min(known or fitting, key=lambda name: data[name].num_inputs)]
        fitting += [name for name in data if name in PARTS[part].also]
        cells += [(part, name) for name in fitting]
    if not cells:
        raise ValueError(
            f"none of --parts={','.join(names)} takes --datasets={','.join(data)}: "
            "by their kind, or since they have too few features"
        )
    return cells


def _takes(part: Part, data: Data) -> bool:
    return data.kind in part.kinds and bool(not part.k or _sizes(part, data))


def _sizes(part: Part, data: Data) -> list[int]:
    """The other sizes of the top set that leave something to rank."""
    return [k for k in part.k.get(data.kind, ()) if data.k != k <= data.largest_k]


def _folder(part: str, name: str, options) -> Path:
    return options.output_dir / part / name


def _command(
    part: str, name: str, options, *, data: Data, folder: Path, asked: Sequence[str]
) -> list[str]:
    """The command for one part alone, whose every flag is given by name."""
    arguments = [f"--datasets={name}", f"--preset={options.preset}"]
    if options.given["seeds"] is not None and not PARTS[part].alone:
        arguments.append(f"--seeds={','.join(map(str, options.seeds))}")
    arguments += [
        f"--data_dir={options.data_dir}",
        f"--models_dir={options.models_dir}",
    ]
    arguments += _own_flags(part, data)
    if source := PARTS[part].records:
        there = _folder(source, name, options)
        if source in asked or (there / "config.json").is_file():
            arguments.append(f"--records={there}")
    return ["-m", f"experiments.{_module(part)}", *arguments, f"--output_dir={folder}"]


def _own_flags(part: str, data: Data) -> list[str]:
    """Flags that make a part another run than its experiment's default one."""
    sizes = _sizes(PARTS[part], data)
    chosen = [f"--k={','.join(map(str, sizes))}"] if sizes else []
    return [*chosen, *PARTS[part].flags]


def _module(part: str) -> str:
    return PARTS[part].experiment or part


def _job(part: str, name: str, options, data: Data, asked: Sequence[str]) -> jobs.Job:
    folder = _folder(part, name, options)
    absolute = options._replace(
        data_dir=options.data_dir.resolve(), models_dir=options.models_dir.resolve()
    )
    arguments = _command(part, name, absolute, data=data, folder=folder, asked=asked)
    after = () if part == "robustness" else (f"robustness {name}",)
    return jobs.Job(
        f"{part} {name}",
        (sys.executable, *arguments),
        folder / "log.txt",
        PARTS[part].minutes
        * presets.PRESET_TIME[options.preset]
        * presets.KIND_TIME[data.kind],
        after,
        PARTS[part].alone,
    )


def _mark(job: jobs.Job, data: Data) -> dict[str, object]:
    return {
        "command": list(job.command[1:]),
        "data_sha256": data.sha256,
        **output.environment(),
    }


def _is_done(job: jobs.Job, mark: dict[str, object]) -> bool:
    """Whether the same command ended well before, with the same data and software."""
    try:
        written = json.loads(job.log.with_name(_DONE).read_text(encoding="utf-8"))
        exhibit.read(job.log.parent)
    except (FileNotFoundError, ValueError, RecursionError):
        return False
    revision = mark["git_revision"] or "-dirty"
    return written == mark and not revision.endswith("-dirty")


def write_page(cells, failed, options, data) -> list[Path]:
    """Write the page and the summary of what has been measured so far."""
    shown = []
    for part in PARTS:
        exhibits = {}
        for name in [name for of_part, name in cells if of_part == part]:
            folder = _folder(part, name, options)
            try:
                exhibits[name] = folder, exhibit.read(folder)
            except FileNotFoundError:
                exhibits[name] = folder, None
        if exhibits:
            commands = _commands(part, exhibits, options.preset, data)
            about = _about(_module(part))
            section = report_page.Section(part, about, commands, exhibits)
            shown.append(section._replace(heading=PARTS[part].title))
    told = {"preset": options.preset, **output.environment()}
    return report_page.write(
        options.output_dir / "report", shown, told=told, failed=failed
    )


def _commands(part: str, exhibits, preset: str, data) -> str:
    """One a line: data sets that were run with the same flags share one."""
    together = {}
    module = _module(part)
    # Another run of an experiment needs a folder of its own.
    end = [f"--output_dir=results/{part}"] if module != part else []
    for name, (_, shown) in exhibits.items():
        given = shown.given if shown else _own_flags(part, data[name])
        together.setdefault((*given, *end), []).append(name)
    return "\n".join(
        " ".join(
            [
                f"python -m experiments.{module}",
                f"--datasets={','.join(names)}",
                f"--preset={preset}",
                *given,
            ]
        )
        for given, names in together.items()
    )


def _about(module: str) -> str:
    """The first two paragraphs of an experiment's docstring, which is not imported."""
    file = _CHECKOUT / "experiments" / module / "experiment.py"
    source = file.read_text(encoding="utf-8")
    paragraphs = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")
    return " ".join(" ".join(paragraphs[:2]).split())
