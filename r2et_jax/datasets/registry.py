"""Data sets by name."""

from __future__ import annotations

from pathlib import Path

from r2et_jax.checks import check_in
from r2et_jax.datasets.bundled import breast_cancer
from r2et_jax.datasets.containers import Dataset
from r2et_jax.datasets.digits import digits
from r2et_jax.datasets.images import load_images_npz
from r2et_jax.datasets.npz import holds
from r2et_jax.datasets.pair_files import load_pairs_npz
from r2et_jax.datasets.pairs import PairDataset
from r2et_jax.datasets.planted import planted
from r2et_jax.datasets.reference import drop_reference
from r2et_jax.datasets.tabular import load_npz

_BUNDLED = {"breast_cancer": breast_cancer}
_PREPARED = ("adult", "bank", "compas")
REFERENCE_SUFFIX = "_ref"
_BUNDLED_PAIRS = {"digits": digits, "planted": planted}
# Prepared by the module of the same name in data_prep.
_PAIRS = {"mnist": "images", "adhd": "brain_graphs", "hiv": "brain_graphs",
          "bp": "brain_graphs"}  # fmt: skip
_IMAGES = {"cifar10": "images", "mnist_digits": "images"}

_NAMES = {
    "tabular": (
        *_BUNDLED,
        *_PREPARED,
        *(name + REFERENCE_SUFFIX for name in _PREPARED),
    ),
    "pairs": (*_BUNDLED_PAIRS, *_PAIRS),
    "images": tuple(_IMAGES),
}


def names(kind: str = "tabular") -> tuple[str, ...]:
    """The names of one kind that `load` knows.

    Args:
      kind: "tabular", "pairs" (of images or graphs) or "images" (single ones).

    Returns:
      The names.

    Raises:
      ValueError: an unknown kind.

    Example:
      >>> names("images")
      ('cifar10', 'mnist_digits')
    """
    check_in("kind", kind, _NAMES)
    return _NAMES[kind]


def known() -> tuple[str, ...]:
    """The names of all kinds that `load` knows wherever the files are."""
    return tuple(name for kind in _NAMES.values() for name in kind)


def prepared(data_dir: str | Path, kind: str | None = None) -> tuple[str, ...]:
    """The names of further files in a folder, of `save_npz` or `save_pairs_npz`.

    Args:
      data_dir: the folder, which need not exist.
      kind: "tabular" or "pairs"; None for both.

    Returns:
      The names of files that hold such data and have no name of `names()`, sorted;
      other files are left out.
    """
    names_there = []
    for path in sorted(Path(data_dir).glob("*.npz")):
        if path.stem not in known() and kind in (None, _kind(path)) and _kind(path):
            names_there.append(path.stem)
    return tuple(names_there)


def _kind(path: Path) -> str | None:
    """What a file holds, by the names of its arrays."""
    if holds(path, "pairs"):
        return "pairs"
    return "tabular" if holds(path, "columns") else None


def load(
    name: str, *, data_dir: str | Path = "data", fold: int = 0
) -> Dataset | PairDataset:
    """Load a data set by name.

    Args:
      name: tabular: breast_cancer (bundled, seed 0), or adult, bank, compas (prepared
        files), or one of the latter with "_ref": one reference level of each one-hot
        group dropped (`drop_reference`). Pairs: digits, planted (bundled, seed 0), or
        mnist, adhd, hiv, bp (prepared files). Single images: cifar10, mnist_digits
        (prepared files). Any other name: a table or pairs of your own, as `save_npz`
        and `save_pairs_npz` have written them to the folder.
      data_dir: the folder of the prepared .npz files.
      fold: of the cross-validation of graphs, 0 … 4; 0 for all others.

    Returns:
      A validated `Dataset`, or for pairs a validated `PairDataset`, of that name.

    Raises:
      ValueError: an unknown name or fold, or a file that is not sound.
      FileNotFoundError: the file is not there; the message tells the command that
        prepares it.

    Example:
      >>> from r2et_jax.datasets import load
      >>> load("breast_cancer").name
      'breast_cancer'
    """
    dataset = _load(name, data_dir=data_dir, fold=fold)
    said, asked = (text.removesuffix(REFERENCE_SUFFIX) for text in (dataset.name, name))
    if said in known() and said != asked:
        raise ValueError(
            f"{Path(data_dir) / asked}.npz holds the data set {said!r}, expected "
            f"{asked!r}: was it renamed?"
        )
    # Not the name that the file says of itself, which two files may share.
    return dataset._replace(name=name)


def _load(name: str, *, data_dir: str | Path, fold: int) -> Dataset | PairDataset:
    if name not in known() and name in prepared(data_dir):
        path = Path(data_dir) / f"{name}.npz"
        if _kind(path) == "pairs":
            return load_pairs_npz(path, fold=fold)
        _check_no_fold(name, fold)
        return load_npz(path)
    check_in("dataset", name, (*known(), *prepared(data_dir)))
    if name in _BUNDLED_PAIRS:
        return _BUNDLED_PAIRS[name]().fold(fold)
    if name in _PAIRS:
        path = _file(name, data_dir, _PAIRS[name])
        return load_pairs_npz(path, fold=fold)
    _check_no_fold(name, fold)
    if name in _BUNDLED:
        return _BUNDLED[name]()
    if name in _IMAGES:
        return load_images_npz(_file(name, data_dir, _IMAGES[name]))
    base = name.removesuffix(REFERENCE_SUFFIX)
    dataset = load_npz(_file(base, data_dir, "tabular"))
    return dataset if name == base else drop_reference(dataset)


def _check_no_fold(name: str, fold: int) -> None:
    if fold != 0:
        raise ValueError(f"{name}: has no folds, expected fold 0, got {fold!r}")


def _file(base: str, data_dir: str | Path, module: str) -> Path:
    path = Path(data_dir) / f"{base}.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"no data set file {path}: prepare it with python -m data_prep.{module} "
            f"--datasets={base} --data_dir={data_dir}"
        )
    return path
