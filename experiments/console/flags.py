"""The flags that every experiment takes, and the parsing of their lists."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from absl import flags as absl_flags

from r2et_jax.checks import check_count, check_in, check_nonnegative

Number = TypeVar("Number", int, float)
Default = str | Mapping[str, str]

_FILE = ".npz"
PRESETS = ("smoke", "standard", "paper")
LISTS = {
    "datasets": "names of data sets, or paths to prepared .npz files of one folder",
    "methods": "names of training methods; sums are written wd+r2et_nh",
    "attacks": "names of attacks",
    "k": "sizes of the top-k set",
    "epsilon": "budgets of the attacks, in the units of the model's input",
    "seeds": "seed numbers, such as 0,1,2",
}
# Of a seed: larger ones are drawn with what is left over, as another one is.
LARGEST_SEED = 2**32 - 1
# Of a count, such as k: more of anything does not fit into memory.
LARGEST_COUNT = 2**31 - 1
_LARGEST_FLOAT = 3.4e38
_FOLDERS = ("data_dir", "models_dir", "output_dir")
_SINGLE = ("data_dir", "models_dir", "output_dir", "preset", "progress")


class Options(NamedTuple):
    """The values of the common flags; an empty list means the experiment's choice."""

    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    attacks: tuple[str, ...]
    k: tuple[int, ...]
    epsilon: tuple[float, ...]
    seeds: tuple[int, ...]
    data_dir: Path
    models_dir: Path
    output_dir: Path
    preset: str
    progress: bool
    config: dict[str, Any]  # every flag of the experiment, for prepare_output_dir
    given: Mapping[str, Any] = {}  # flag -> its value, None where it was not given
    typed: tuple[str, ...] = ()  # flags as they were typed, such as "--seeds=0"
    norm: str = "l2"  # of the attacks' budgets
    kind: str = "tabular"  # of the data: tabular, image or graph
    num_steps: int | None = None  # of the published attacks, where it is not theirs
    experiment: str = ""


class ExperimentFlags(NamedTuple):
    """The flags of an experiment, which it defines when it runs and reads in its main.

    Attributes:
      experiment: its name; the default of --output_dir is results/<experiment>.
      defaults: list flag -> default as it would be typed ("adult,bank"), or a mapping
        from each preset to one. A list without a default is empty: the experiment's
        own choice, such as a k for each data set.
      further: names of further flags, for `Options.config`.
      define_own: `define_own(values)` defines further flags.
    """

    experiment: str
    defaults: Mapping[str, Default]
    further: tuple[str, ...]
    define_own: Callable[[absl_flags.FlagValues], None] | None

    def define(self) -> absl_flags.FlagValues:
        """All flags of one run, not parsed yet."""
        values = absl_flags.FlagValues()
        _define_common(self, values)
        if self.define_own is not None:
            self.define_own(values)
        return values

    def read(
        self,
        values: absl_flags.FlagValues,
        *,
        datasets: Collection[str] | None = None,
        methods: Collection[str] | None = None,
        attacks: Collection[str] | None = None,
    ) -> Options:
        """Return the parsed values; a list not given takes the preset's default.

        Args:
          values: of `define`, parsed.
          datasets, methods, attacks: the known names; None admits any.

        Raises:
          ValueError: unknown or repeated names, numbers that are none or out of range.
        """
        preset = values["preset"].value
        for name in _FOLDERS:
            if not values[name].value.strip():
                raise ValueError(f"--{name} must name a folder, got an empty name")
        items = {}
        for name in LISTS:
            given = values[name].value
            items[name] = given
            if given is None:
                items[name] = _split(by_preset(self.defaults.get(name, ""), preset))
            elif not given:
                raise ValueError(f"--{name} must name at least one, got an empty list")
        known_methods = None if methods is None else frozenset(methods)
        options = Options(
            datasets=parse_names("datasets", items["datasets"], known=datasets),
            methods=parse_names(
                "methods", items["methods"], known=known_methods, sums=True
            ),
            attacks=parse_names("attacks", items["attacks"], known=attacks),
            k=parse_ints("k", items["k"], minimum=1, maximum=LARGEST_COUNT),
            epsilon=parse_floats("epsilon", items["epsilon"]),
            seeds=parse_ints("seeds", items["seeds"], minimum=0, maximum=LARGEST_SEED),
            data_dir=Path(values["data_dir"].value),
            models_dir=Path(values["models_dir"].value),
            output_dir=Path(values["output_dir"].value),
            preset=preset,
            progress=values["progress"].value,
            config={},
            experiment=self.experiment,
        )
        given = {name: values[name].value for name in values}
        further = {name: given[name] for name in (*_SINGLE, *self.further)}
        resolved = {name: getattr(options, name) for name in LISTS}
        return options._replace(
            config=dict(sorted({**further, **resolved}.items())),
            given=given,
            typed=tuple(
                values[n].serialize() for n in sorted(values) if values[n].present
            ),
        )


def resolve_files(values: absl_flags.FlagValues) -> None:
    """Take `--datasets=path/to/mine.npz` for `--datasets=mine --data_dir=path/to`.

    Args:
      values: parsed; those without the two flags stay as they are.

    Raises:
      ValueError: no such file, files of several folders, or of another folder than
        --data_dir says.
    """
    if not {"datasets", "data_dir"} <= set(values):
        return
    items, folder = values["datasets"].value or [], values["data_dir"]
    paths = {item: Path(item) for item in items if item.endswith(_FILE)}
    if not paths:
        return
    for path in paths.values():
        if not path.is_file():
            raise ValueError(f"--datasets: there is no file {path}")
    folders = sorted({str(path.parent) for path in paths.values()})
    if folder.present and Path(folder.value).absolute() != Path(folders[0]).absolute():
        folders = [folder.value, *folders]
    if len(folders) > 1:
        raise ValueError(
            f"files of --datasets must lie in one folder, which --data_dir then is, "
            f"got {' and '.join(folders)}"
        )
    values["datasets"].value = [
        paths[item].stem if item in paths else item for item in items
    ]
    folder.value = folders[0]
    folder.present += 1  # as if it had been typed


def describe(
    experiment: str,
    *,
    defaults: Mapping[str, Default],
    further: Sequence[str] = (),
    define: Callable[[absl_flags.FlagValues], None] | None = None,
) -> ExperimentFlags:
    """The common flags of an experiment and its own; see `ExperimentFlags`.

    Example:
      >>> FLAGS = describe(
      ...     "robustness",
      ...     defaults={
      ...         "datasets": {"smoke": "breast_cancer", "standard": "adult",
      ...                      "paper": "adult,bank,compas"},
      ...         "seeds": {"smoke": "0", "standard": "0,1,2", "paper": "0,1,2,3,4"},
      ...         "attacks": "er,mse",
      ...     },
      ... )
      >>> def main(values):
      ...     options = FLAGS.read(values, attacks=("er", "mse", "strongest"))
    """
    for name, default in defaults.items():
        check_in("common list flag", name, LISTS)
        if not isinstance(default, str) and set(default) != set(PRESETS):
            raise ValueError(
                f"the defaults of {name} must be text or a mapping with the keys "
                f"{', '.join(PRESETS)}, got {default!r}"
            )
    return ExperimentFlags(experiment, dict(defaults), tuple(further), define)


def _define_common(described: ExperimentFlags, values: absl_flags.FlagValues) -> None:
    for name, meaning in LISTS.items():
        shown = _shown(described.defaults.get(name, ""))
        absl_flags.DEFINE_list(
            name,
            None,
            f"{meaning}, comma-separated (default: {shown})",
            flag_values=values,
        )
    for name, default, meaning in (
        ("data_dir", "data", "folder of prepared data"),
        (
            "models_dir",
            "results/models",
            "folder of trained models, which experiments share",
        ),
        (
            "output_dir",
            f"results/{described.experiment}",
            "folder of records, tables and figures; an unfinished run in it is resumed",
        ),
    ):
        absl_flags.DEFINE_string(name, default, meaning, flag_values=values)
    absl_flags.DEFINE_enum(
        "preset",
        "standard",
        PRESETS,
        "smoke: seconds on bundled data; standard: the protocol with short training; "
        "paper: the published epochs and grids",
        flag_values=values,
    )
    absl_flags.DEFINE_string(
        "cache_dir",
        None,
        "folder that keeps compiled programs for the next run",
        flag_values=values,
    )
    absl_flags.DEFINE_bool("progress", True, "show a progress bar", flag_values=values)


def by_preset(value: Any | Mapping[str, Any], preset: str) -> Any:
    """Return a preset's entry of a mapping, or the value itself."""
    return value[preset] if isinstance(value, Mapping) else value


def parse_names(
    name: str,
    items: Sequence[str],
    *,
    known: Collection[str] | None = None,
    sums: bool = False,
) -> tuple[str, ...]:
    """Return distinct, known names; with `sums`, each may be a sum a+b of known ones.

    Raises:
      ValueError: names the flag, the entry and the known names.
    """
    for item in items:
        terms = item.split("+") if sums and not (known and item in known) else [item]
        for term in terms:
            if not term:
                raise ValueError(f"--{name} has an empty entry: {','.join(items)!r}")
            if known is not None:
                check_in(f"entry of --{name}", term, known)
    return _distinct(name, items, items)


def parse_ints(
    name: str, items: Sequence[str], *, minimum: int, maximum: int
) -> tuple[int, ...]:
    """Return distinct integers from `minimum` to `maximum`.

    Raises:
      ValueError: names the flag and the entry.
    """
    numbers = _numbers(name, items, int, "integers")
    for number in numbers:
        check_range(name, number, minimum=minimum, maximum=maximum)
    return _distinct(name, items, numbers)


def check_range(name: str, value: int, *, minimum: int, maximum: int) -> None:
    """Raise ValueError unless an integer flag lies within its limits."""
    check_count(name, value, minimum=minimum)
    if value > maximum:
        raise ValueError(f"{name} must be an integer of at most {maximum}, got {value}")


def parse_floats(name: str, items: Sequence[str]) -> tuple[float, ...]:
    """Return distinct, nonnegative numbers that are finite in float32.

    Raises:
      ValueError: names the flag and the entry.
    """
    numbers = _numbers(name, items, float, "numbers")
    for number in numbers:
        check_nonnegative(name, number)
        if number > _LARGEST_FLOAT:
            raise ValueError(f"{name} must be finite in float32, got {number!r}")
    return _distinct(name, items, numbers)


def _numbers(
    name: str, items: Sequence[str], parse: Callable[[str], Number], plural: str
) -> list[Number]:
    result = []
    for item in items:
        try:
            result.append(parse(item))
        except ValueError:
            raise ValueError(
                f"--{name} takes {plural}, comma-separated, got {item!r}"
            ) from None
    return result


def _distinct(name: str, items: Sequence[str], values: Sequence) -> tuple:
    for position, value in enumerate(values):
        if value in values[:position]:
            raise ValueError(f"--{name} repeats {items[position]!r}")
    return tuple(values)


def _split(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")] if text else []


def _shown(default: Default) -> str:
    if isinstance(default, str):
        return default or "chosen by the experiment"
    return "; ".join(f"{preset} {_shown(default[preset])}" for preset in PRESETS)
