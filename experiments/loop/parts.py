"""The parts of a run, one for each data set or fold, with what is its own of the flags.

Images and graphs have their own k, budgets and seeds, where they are not given; what
is measured with other settings stands in a table apart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.console import flags
from experiments.console.flags import Options
from experiments.console.progress import track
from experiments.loop import asked, setup, training_flags
from experiments.problems import presets, registry
from experiments.problems.registry import POOLINGS, Problem
from experiments.store.output import write_text_atomic
from experiments.store.records import RecordStore
from r2et_jax import checks, execution
from r2et_jax.types import Params

# What the reports say of a data set's attacks.
_OF_VIEW = ("kind", "norm", "num_steps")
# Flags of which most experiments have images and graphs choose, see `chosen`.
LARGEST = ("k", "epsilon", "seeds")


class Part(NamedTuple):
    """A data set, or one fold of it, and the flags that are meant for it."""

    problem: Problem
    options: Options


class Trained(NamedTuple):
    """A chosen model.

    Attributes:
      fields: what its records say of it.
      model: the Flax module.
      params: its parameters.
      choice: how it was chosen, see `fitting.Fitted.choices`.
    """

    fields: dict[str, Any]
    model: Any
    params: Params
    choice: dict[str, Any]


def of_graphs(options: Options) -> dict[str, str]:
    """What flags say of graphs, as options of `problems.problem`."""
    given = options.given.get("absent_edges")
    return {} if given is None else {"absent": given}


def problems(
    options: Options,
    *,
    folds: tuple[int, ...] | None = None,
    norm: str | None = None,
) -> list[Problem]:
    """Load what --datasets names, with the network that --pooling names and the attacks
    of graphs that --absent_edges allows.

    Args:
      options: the flags of the run.
      folds: of graphs; None for those of --folds.
      norm: of the attacks on images; None for l2.

    Raises:
      ValueError, FileNotFoundError: see `setup.load`.
    """
    given = None
    if folds is None:
        given = options.given.get("folds")
        names = given
        if names is None:
            names = presets.FOLDS[options.preset].split(",")
        if not names:
            raise ValueError("--folds must name at least one, got an empty list")
        folds = flags.parse_ints("folds", names, minimum=0, maximum=flags.LARGEST_COUNT)
    pooling = options.given.get("pooling")
    loaded = setup.load(options, folds=folds)
    settings = {"pooling": pooling or POOLINGS[0], "norm": norm, **of_graphs(options)}
    changes = training_flags.changes(options.given)
    made = [
        registry.problem(dataset, changes=changes, **settings) for dataset in loaded
    ]
    kinds = {dataset.view.kind for dataset in made}
    if pooling is not None:
        check_use("pooling", pooling, "image", kinds, options)
    if norm is not None:
        check_use("norm", norm, "image", kinds, options)
    if given is not None:
        check_use("folds", ",".join(given), "graph", kinds, options)
    for value in of_graphs(options).values():
        check_use("absent_edges", value, "graph", kinds, options)
    return made


def check_use(
    name: str, value: str, kind: str, kinds: Collection[str], options: Options
) -> None:
    """Raise ValueError if a flag was given that no data set of a run has a use for."""
    if kind not in kinds:
        raise ValueError(
            f"--{name} is for {kind}s, {','.join(options.datasets)} has none: got "
            f"--{name}={value}"
        )


def start(
    chosen: Sequence[Part], options: Options, *, varying: Sequence[str]
) -> tuple[Path, RecordStore]:
    """The output folder of a run, and the records in it so far.

    Args:
      chosen: the parts of the run.
      options: its flags.
      varying: list flags of which a data set may have its own choice.

    Raises:
      ValueError: see `setup.open_folder`.
    """
    config = with_choices(options.config, chosen, varying)
    return setup.open_folder(
        options._replace(config=config),
        (part.problem for part in chosen),
    )


def choose(
    problem: Problem, options: Options, names: Sequence[str] = (), **usual: Any
) -> Part:
    """The part of a run that one data set is.

    Args:
      problem: the data.
      options: the flags of the run.
      names: list flags of which images and graphs have their own choice where the
        flag is not given: methods, k, epsilon, seeds.
      usual: the same with the choice itself, for any data.

    Raises:
      ValueError: k out of range, or a method that does not train such networks.
    """
    if not problem.view.tabular:
        preset = options.preset
        theirs = {
            "methods": problem.methods(preset, options.methods),
            "k": (problem.k,),
            "epsilon": problem.epsilon[preset],
            "seeds": problem.seeds(preset, options.seeds),
        }
        usual = {name: theirs[name] for name in names} | usual
    free = {n: value for n, value in usual.items() if options.given.get(n) is None}
    view = {name: getattr(problem.view, name) for name in _OF_VIEW}
    options = options._replace(**free, **view)
    if not problem.view.tabular:
        options = options._replace(datasets=(problem.name,))
        for method in options.methods:
            problem.check_method(method)
    for k in options.k:
        checks.check_k(k, problem.num_features)
    return Part(problem, options)


def without_unset(config: dict[str, Any]) -> dict[str, Any]:
    """Without the flags of pairs and images that were not given."""
    optional = (*asked.OF_PAIRS, *asked.OF_IMAGES)
    return {n: v for n, v in config.items() if n not in optional or v is not None}


def with_choices(
    config: dict[str, Any], parts: Iterable[Part], names: Sequence[str]
) -> dict[str, Any]:
    """A run's configuration with the named flags of data sets of images or graphs."""
    config = without_unset(config)
    chosen = {
        problem.name: {name: list(getattr(theirs, name)) for name in names}
        for problem, theirs in parts
        if not problem.view.tabular
    }
    return {**config, "by_dataset": chosen} if chosen else config


def chosen(
    options: Options, names: Sequence[str], *, folds: tuple[int, ...] | None = None
) -> list[Part]:
    """The parts of a run at one ε, of its own budgets the largest.

    Args:
      options, names: as of `choose`.
      folds: as of `problems`.
    """
    parts = []
    for problem in problems(options, folds=folds):
        usual = {}
        if "epsilon" in names and not problem.view.tabular:
            usual["epsilon"] = (max(problem.epsilon[options.preset]),)
        parts.append(choose(problem, options, names, **usual))
    return parts


def in_turn(parts: Iterable[Part]) -> Iterator[tuple[Problem, Options, int]]:
    """Every part with every k of its own: of a data set all folds with one k first.

    The compiled programs of one are gone before the next, but folds share theirs.
    """
    together: dict[tuple[str, int], list[tuple[Problem, Options, int]]] = {}
    for problem, theirs in parts:
        for k in theirs.k:
            together.setdefault((problem.name, k), []).append((problem, theirs, k))
    for number, cells in enumerate(together.values()):
        if number:
            execution.free_programs()
        yield from cells


def models(
    problem: Problem,
    k: int,
    options: Options,
    *,
    description: str,
    tolerances: Sequence[float] = (presets.MAIN_TOLERANCE,),
    by_seed: bool = False,
) -> Iterator[Trained]:
    """The chosen models of every method and seed, trained now or found.

    Args:
      problem: the data.
      k: size of the top set.
      options: the flags that are meant for this data set.
      description: of what is done with the models, for the progress display.
      tolerances: of validation AUC, of `protocol.TOLERANCES`.
      by_seed: seed by seed, so that what was measured before a kill compares all
        methods; by default method by method, each trained when its turn comes.
    """
    fitter = setup.fitter(problem, k, options)
    one_by_one = [(method,) for method in options.methods]
    for methods in [options.methods] if by_seed else one_by_one:
        fitted = {method: fitter.fit(method) for method in methods}
        cells = [
            (s, method, tolerance)
            for s in range(len(options.seeds))
            for method in methods
            for tolerance in tolerances
        ]
        name = problem.name if by_seed else f"{problem.name} {methods[0]}"
        shown = track(cells, description=f"{name} {description}", show=options.progress)
        for s, method, tolerance in shown:
            t = presets.TOLERANCES.index(tolerance)
            model, params = fitted[method].at(s, t)
            fields = setup.model_fields(
                options.experiment,
                problem,
                model,
                method=method,
                seed=options.seeds[s],
                k=k,
                tolerance=tolerance,
                schedule=fitter.protocol.schedule,
            )
            yield Trained(fields, model, params, fitted[method].choices[s][t])


def write_reports(
    folder: Path,
    store: RecordStore,
    parts: Iterable[Part],
    names: Sequence[str],
    write: Callable[..., list[Path]],
) -> tuple[list[Path], list[Options]]:
    """Write the results, apart for data sets of other settings, and all in table.md.

    Args:
      folder: where to.
      store: the records.
      parts: of the run.
      names: list flags of which a data set may have its own.
      write: `write(folder, store, options, part=...) -> paths`: the tables are named
        table_{part}….md.

    Returns:
      Paths of what was written, and the flags of each group of data sets.
    """
    groups: dict[Any, Options] = {}
    for problem, theirs in parts:
        same = theirs.kind, theirs.norm, *(getattr(theirs, name) for name in names)
        group = groups.setdefault(same, theirs._replace(datasets=()))
        if problem.name not in group.datasets:
            groups[same] = group._replace(datasets=(*group.datasets, problem.name))
    several = len(groups) > 1
    written, text = [], []
    for theirs in groups.values():
        part = "tabular" if theirs.kind == "tabular" else "_".join(theirs.datasets)
        paths = write(folder, store, theirs, part=part if several else "")
        for path in paths if several else ():
            if path.match("table*.md"):
                content = path.read_text(encoding="utf-8")
                text.append(f"# {', '.join(theirs.datasets)}\n\n{content}")
        written += paths
    if text:
        written.insert(0, folder / "table.md")
        write_text_atomic(written[0], "\n".join(text))
    return written, list(groups.values())
