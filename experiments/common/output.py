"""The output directory: what was run, with which configuration, on what."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from matplotlib.figure import Figure

# Flags that change how a run looks or where it writes, never its numbers.
PRESENTATION = frozenset({"output_dir", "models_dir", "progress", "workers"})
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "r2et_jax")


def prepare_output_dir(
    path: str | os.PathLike[str], config: Mapping[str, Any], *, experiment: str
) -> Path:
    """Create the directory with its config.json, or admit the one of an earlier run.

    A directory of the same experiment and configuration is resumed. If the software,
    the device or the revision has changed since, config.json notes the new ones under
    `resumed_with`.

    Args:
      path: the directory.
      config: name -> value of every flag; `PRESENTATION` flags are not compared.
      experiment: the experiment's name.

    Returns:
      The directory.

    Raises:
      ValueError: if the directory belongs to another experiment or configuration
        (names each flag that differs), or holds records of unknown origin.

    Example:
      >>> folder = prepare_output_dir("results/robustness", config,
      ...                             experiment="robustness")
    """
    path = Path(path)
    file = path / "config.json"
    flags = json.loads(json.dumps(dict(config), default=str))
    path.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        if (path / "records.jsonl").exists():
            raise ValueError(
                f"{path} holds records.jsonl without config.json, so what they measure "
                "is unknown; choose another --output_dir"
            )
        content = {"experiment": experiment, "flags": flags, **environment()}
        write_text_atomic(file, _json(content))
        return path

    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        old_experiment, old_flags = content["experiment"], dict(content["flags"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is not a configuration ({error}); choose another --output_dir"
        ) from error
    differences = _differences(old_flags, flags)
    if old_experiment != experiment:
        differences.insert(0, f"experiment was {old_experiment!r}, now {experiment!r}")
    if differences:
        raise ValueError(
            f"{path} holds results of another configuration: {'; '.join(differences)}. "
            "Choose another --output_dir, or give the earlier flags to resume"
        )
    now = environment()
    runs = [{key: content.get(key) for key in now}, *content.get("resumed_with", [])]
    if now != runs[-1]:
        content["resumed_with"] = [*runs[1:], now]
        write_text_atomic(file, _json(content))
    return path


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
    """Replace a file by a text: a reader sees the old or the new one, never a part."""
    _write_atomic(Path(path), text.encode("utf-8"))


def save_figure(
    path: str | os.PathLike[str], figure: Figure, *, dpi: int = 110
) -> None:
    """Write a figure as PNG, atomically."""
    path = Path(path)
    temporary = _temporary(path)
    try:
        figure.savefig(temporary, format="png", dpi=dpi)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_atomic(path: Path, data: bytes) -> None:
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


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
