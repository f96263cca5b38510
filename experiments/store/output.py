"""The output directory: what was run, with which configuration, on what."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from matplotlib.figure import Figure

from experiments.store import locks
from r2et_jax.files import replacing

# Flags that change how a run looks or where it writes, never its numbers; --records
# names a run of the same models that has the same numbers.
PRESENTATION = frozenset(
    {"output_dir", "models_dir", "progress", "workers", "scheduler", "records"}
)
RECORDS = "records.jsonl"
CONFIG = "config.json"
_DATA = "data_sha256"
# Of config.json: what each entry must be.
_SHAPE = {"experiment": str, "flags": dict, _DATA: dict, "resumed_with": list}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "r2et_jax")


def prepare_output_dir(
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    *,
    experiment: str,
    data: Mapping[str, str] | None = None,
) -> Path:
    """Create the directory with its config.json, or admit the one of an earlier run.

    A directory of the same experiment, configuration and data is resumed. If the
    software, the device or the revision has changed since, config.json notes the new
    ones under `resumed_with`. Until `locks.release`, or the end of this process, no
    other one is let into the directory.

    Args:
      path: the directory.
      config: name -> value of every flag; `PRESENTATION` flags are not compared.
      experiment: the experiment's name.
      data: name -> SHA-256 of every data set.

    Returns:
      The directory.

    Raises:
      ValueError: if the directory belongs to another experiment, configuration or data
        (names each that differs), holds records of unknown origin, or if another run
        is writing to it.

    Example:
      >>> folder = prepare_output_dir("results/robustness", config,
      ...                             experiment="robustness")
    """
    path = Path(path)
    file = path / CONFIG
    flags = json.loads(json.dumps(dict(config), default=str))
    data = dict(data or {})
    path.mkdir(parents=True, exist_ok=True)
    locks.hold(path)
    if not file.exists():
        if (path / RECORDS).exists():
            raise ValueError(
                f"{path} holds {RECORDS} without {CONFIG}, so what they measure "
                "is unknown; choose another --output_dir"
            )
        content = {"experiment": experiment, "flags": flags, _DATA: data}
        write_text_atomic(file, _json({**content, **environment()}))
        return path

    content = read_config(file)
    differences = _differences(content["flags"], flags)
    if content["experiment"] != experiment:
        old = content["experiment"]
        differences.insert(0, f"experiment was {old!r}, now {experiment!r}")
    if differences:
        raise ValueError(
            f"{path} holds results of another configuration: {'; '.join(differences)}. "
            "Choose another --output_dir, or give the earlier flags to resume"
        )
    differences = _other_data(content.get(_DATA, {}), data)
    if differences:
        raise ValueError(
            f"{path} holds results of other data: {'; '.join(differences)}. Choose "
            "another --output_dir, or prepare the earlier data to resume"
        )
    now = environment()
    runs = [{key: content.get(key) for key in now}, *content.get("resumed_with", [])]
    if now != runs[-1]:
        content["resumed_with"] = [*runs[1:], now]
        write_text_atomic(file, _json(content))
    return path


def read_config(file: Path) -> dict[str, Any]:
    """A configuration of the right shape; ValueError with its path otherwise."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        for name, expected in _SHAPE.items():
            if name in content and not isinstance(content[name], expected):
                raise ValueError(f"{name} is {content[name]!r}")
        content["experiment"], content["flags"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{file} is not a configuration ({error}); choose another --output_dir"
        ) from error
    return content


def _other_data(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return [
        f"{name} had the SHA-256 {_short(old.get(name))}, now {_short(new.get(name))}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]


def _short(sha256: Any) -> str:
    return "none" if sha256 is None else f"{str(sha256)[:12]}…"


def environment() -> dict[str, Any]:
    """Return the versions, the device kind and the git revision of this process."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "versions": versions,
        "device": jax.devices()[0].device_kind,
        "git_revision": git_revision(),
    }


def git_revision() -> str | None:
    """Return the commit of this source tree (`-dirty` if changed), None outside git."""
    here = Path(__file__).resolve()
    commands = (
        # A package installed inside someone else's repository has no revision.
        ["git", "ls-files", "--error-unmatch", here.name],
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
    )
    output = ""
    for command in commands:
        try:
            output = subprocess.run(
                command, cwd=here.parent, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None
    return output or None


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Replace a file by a text: a reader sees the old or the new one, never a part.

    A link stays, and what it points to is replaced.
    """
    write_atomic(path, text.encode("utf-8"))


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """The same with bytes."""

    def write(temporary):
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    _replace(path, write)


def save_figure(
    path: str | os.PathLike[str], figure: Figure, *, dpi: int = 110
) -> None:
    """Write a figure as PNG, atomically."""
    _replace(path, lambda temporary: figure.savefig(temporary, format="png", dpi=dpi))


def _replace(path: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    path = Path(os.path.realpath(path))
    with naming(path), replacing(path) as temporary:
        write(temporary)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError inside names a file: of a full disk the system does not tell which."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    names = [name for name in {**old, **new} if name not in PRESENTATION]
    return [
        f"--{name} was {_shown(old, name)}, now {_shown(new, name)}"
        for name in names
        if _shown(old, name) != _shown(new, name)
    ]


def _shown(flags: Mapping[str, Any], name: str) -> str:
    if name not in flags:
        return "absent"
    value = flags[name]
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"
