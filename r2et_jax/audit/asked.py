"""What an audit was asked: the model, the names, the budgets, and what was assumed."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from r2et_jax import adapters, saliency, score
from r2et_jax import subject as subject_lib
from r2et_jax.audit.inputs import check_explainer, check_output, check_smoothed
from r2et_jax.audit.layout import Layout, default_names
from r2et_jax.checks import (
    check_model,
    check_nonnegative,
    feature_indices,
    is_linen,
    is_mask,
)
from r2et_jax.programs.transform import left_in_words
from r2et_jax.saliency.grouped import by_variable, variables
from r2et_jax.subject import Form, Subject
from r2et_jax.threat import ThreatModel
from r2et_jax.types import Array

_VERSIONS = ("r2et-jax", "jax", "numpy")
# Columns that may not change are named, of so many.
_LISTED = 20
# What may be left of a common beginning of the columns' names of one variable.
_JOINTS = " =_:-./|["


class Asked(NamedTuple):
    """What was asked, and what the answer rests on.

    Attributes:
      k: size of the top set.
      names: of the explained features [n].
      columns: numbers of one input, n of the threat model.
      shape: of one input, or the shapes of its arrays.
      explained_shape: of the explanation.
      classes: names of the classes, or None.
      output: "logits", "probabilities" or "regression"; "auto" was taken as logits.
      explainer: name of the explanation.
      norm: of the threat model.
      epsilon: its budget.
      rules: what else it says, in words.
      constraints: digest of all of the threat model but norm and budget, which the
        rules say in short.
      evaluations: of the gradient for each input and budget.
      channel_axis: as given, or what "auto" took.
      certify: as given.
      key: numbers of the random key, and the generator that they are for.
      dtype: float type of the inputs.
      differentiable: whether the model has gradients; a black box has none.
      stand_in: where the attack's gradients come from.
      unsmoothed: where the model switches and no smooth form is known, "" for nowhere.
      versions: package -> version.
    """

    k: int
    names: tuple[str, ...]
    columns: int
    shape: Any
    explained_shape: tuple[int, ...]
    classes: tuple[str, ...] | None
    output: str
    explainer: str
    norm: str
    epsilon: float
    rules: tuple[str, ...]
    constraints: str
    evaluations: int
    channel_axis: int | None
    certify: bool | str
    key: tuple[int, ...]
    key_impl: str
    dtype: str
    differentiable: bool
    stand_in: str
    unsmoothed: str
    versions: dict[str, str]


def check_masks(groups: Any, n: int) -> None:
    """Raise for a one-hot group that is a boolean mask of another length than n."""
    for i, group in enumerate(groups if isinstance(groups, Iterable) else ()):
        if is_mask(group):
            feature_indices(f"groups[{i}]", group, n)


def subject_of_parts(
    model: Any,
    params: Any,
    layout: Layout,
    x: np.ndarray,
    *,
    names: Any,
    groups: Any,
    classes: Any,
    output: str,
    target: int | None,
    batched: bool,
    smoothed: Any,
    explainer: Any,
) -> Subject:
    """The subject of what was given in parts, each part checked against an input."""
    apply = model.apply if is_linen(model) else model
    first = layout.input_of(x[0])
    examined = subject_lib.subject(
        model,
        params,
        smoothed=smoothed,
        explainer=saliency.gradient if explainer is None else explainer,
        names=names,
        groups=groups,
        classes=classes,
        output=output,
        target=target,
        batched=batched,
    )
    _check_shaped(examined.apply, params, layout, first, x[0])
    if smoothed is not None:
        single = score.of_batches if batched else lambda apply: apply
        check_smoothed(lambda rho: single(smoothed(rho)), single(apply), params, first)
    if output == "probabilities":
        single = subject_lib.subject(apply, params, batched=batched).apply

        def of_row(params, row, /):
            return single(params, layout.input_of(row))

        check_output(output, of_row, params, x, None)
    if len(examined.groups) and explainer not in (None, saliency.gradient):
        raise ValueError(
            "groups are explained by the gradient, see saliency.by_variable, got "
            f"groups and explainer={explainer!r}"
        )
    if layout.is_plain:
        check_explainer(examined.form.explainer, examined.apply, params, x[0])
    return examined


def adapted(model: Any, x: Any, **given: Any) -> Subject:
    """The subject of a model of another library; what is not given is the adapter's."""
    nothing = {"groups": (), "batched": False, "output": "auto"}
    options = {
        name: value
        for name, value in given.items()
        if value is not None and not (name in nothing and value == nothing[name])
    }
    return adapters.subject(model, x, **options)


def _check_shaped(apply, params, layout, first, row) -> None:
    if len(layout.shapes) == 1 and layout.treedef == jax.tree.structure(0):
        check_model(apply, params, first)
        return
    check_model(lambda params, row: apply(params, layout.input_of(row)), params, row)


def budgets(threat: ThreatModel, epsilons: Any) -> list[float]:
    """The budgets ε in rising order, the threat model's own among them.

    Raises:
      ValueError: for what are no budgets.
    """
    if epsilons is None:
        epsilons = ()
    unordered = isinstance(epsilons, str | Mapping)
    if unordered or not hasattr(epsilons, "__iter__"):
        raise ValueError(
            f"epsilons must be a sequence of budgets, such as (0.1, 0.5), got "
            f"{epsilons!r}"
        )
    dtype = threat.epsilon.dtype
    distinct = {float(threat.epsilon)}
    for epsilon in epsilons:
        check_nonnegative("each of epsilons", epsilon)
        with np.errstate(over="ignore"):
            held = float(np.asarray(epsilon, dtype))
        if not np.isfinite(held):
            raise ValueError(f"each of epsilons must be finite in {dtype}, got {held}")
        distinct.add(held)
    return sorted(distinct)


def explained(examined: Subject, layout: Layout) -> Subject:
    """The subject with its groups explained as variables.

    Raises:
      ValueError: for groups of inputs that are no rows or beyond their columns.
    """
    groups = examined.groups
    if not groups:
        return examined
    if not layout.is_plain:
        raise ValueError(
            f"groups are of columns of inputs [m, n], got inputs of shape "
            f"{layout.shapes}"
        )
    if examined.form.explainer is not saliency.gradient:
        raise ValueError(
            "groups are explained by the gradient, see saliency.by_variable, got "
            f"groups and {examined.form.explainer!r}"
        )
    explainer = by_variable(groups, layout.size)
    form = examined.form._replace(explainer=explainer)
    return dataclasses.replace(examined, form=form)


def explained_names(
    examined: Subject, layout: Layout, x: Any, count: int
) -> tuple[str, ...]:
    """The names of the `count` features of an explanation.

    Raises:
      ValueError: for names that are neither of the columns nor of what is explained.
    """
    given, groups = examined.names, examined.groups
    kinds = {count, layout.size}
    if given is not None and len(given) not in kinds:
        raise ValueError(
            f"names must be as many as the features, "
            f"{' or '.join(map(str, sorted(kinds)))}, got {len(given)}"
        )
    if groups and (given is None or len(given) == layout.size):
        columns = given or default_names(x, layout)
        members = variables(groups, layout.size)
        return tuple(variable_name([columns[i] for i in group]) for group in members)
    if given is not None and len(given) == count:
        return given
    if count == math.prod(layout.explained):
        return default_names(x, layout)
    # An explainer of its own features, such as the pixels of a row.
    return tuple(f"feature {i}" for i in range(count))


def variable_name(columns: Sequence[str]) -> str:
    """ "colour" of "colour=red" and "colour=blue"; else all of them."""
    if len(columns) == 1:
        return columns[0]
    length = 0
    for letters in zip(*columns, strict=False):
        if len(set(letters)) > 1:
            break
        length += 1
    start = columns[0][:length]
    # A level may have joints, too: "country=United-States".
    cut = start.find("=")
    if cut < 0:
        cut = max(start.rfind(joint) for joint in _JOINTS)
    return start[:cut].rstrip(_JOINTS) if cut > 0 else " / ".join(columns)


def asked(
    examined: Subject,
    layout: Layout,
    threat: ThreatModel,
    x: np.ndarray,
    *,
    k: int,
    names: tuple[str, ...],
    evaluations: int,
    certify: bool | str,
    key: Array,
    left: Mapping[str, int],
) -> Asked:
    """What was asked, in plain values; `left` as `programs.describe` tells it."""
    columns = examined.names or ()
    columns = columns if len(columns) == layout.size else range(layout.size)
    own_features = len(names) != math.prod(layout.explained)
    plain = layout.treedef == jax.tree.structure(0) and len(layout.shapes) == 1
    return Asked(
        k=int(k),
        names=names,
        columns=layout.size,
        shape=layout.shapes[0] if plain else layout.shapes,
        explained_shape=(len(names),) if own_features else layout.explained,
        classes=examined.classes,
        output="logits" if examined.output == "auto" else examined.output,
        explainer=_explainer_name(examined),
        norm=threat.norm,
        epsilon=float(threat.epsilon),
        rules=_rules(threat, columns),
        constraints=_constraints(threat),
        evaluations=int(evaluations),
        channel_axis=layout.channel_axis,
        certify=certify,
        key=key_words(key),
        key_impl=str(jax.random.key_impl(key)),
        dtype=str(x.dtype),
        differentiable=examined.form.differentiable,
        stand_in=_stand_in(examined.form),
        unsmoothed=left_in_words(left),
        versions={name: _version(name) for name in _VERSIONS},
    )


def key_words(key: Array) -> tuple[int, ...]:
    """The numbers of a random key, also of one in the raw form of older programs."""
    raw = key if key.dtype == np.uint32 else jax.random.key_data(key)
    return tuple(int(word) for word in np.asarray(raw).ravel())


def _stand_in(form: Form) -> str:
    if not form.differentiable:
        return (
            "nothing, as a black box has none: it is searched at random and by "
            "evolution alone, and gradients might find more"
        )
    given = "read from its program" if form.smoothed is None else "that was given"
    return (
        "the model's own explanation, in whose derivative its kinks are smooth, and "
        f"from a smooth stand-in {given}"
    )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _explainer_name(examined: Subject) -> str:
    if examined.groups:
        return "gradient by variable"
    explainer = examined.form.explainer
    explainer = getattr(explainer, "func", explainer)
    name = getattr(explainer, "__name__", type(explainer).__name__)
    return name.replace("_", " ")


def _frozen(threat: ThreatModel) -> list[int]:
    if threat.movable is None:
        return []
    return np.flatnonzero(~np.asarray(threat.movable)).tolist()


def _constraints(threat: ThreatModel) -> str:
    digest = hashlib.sha256()
    movable = threat.movable if _frozen(threat) else None
    for part in (threat.lower, threat.upper, movable, threat.groups):
        for leaf in jax.tree.leaves(part):
            values = np.asarray(leaf)
            digest.update(f"{values.shape}{values.dtype}".encode() + values.tobytes())
        digest.update(b"|")
    digest.update(f"{threat.prediction} {threat.absent} {threat.clip}".encode())
    return digest.hexdigest()[:16]


def _rules(threat: ThreatModel, columns: Sequence[Any]) -> tuple[str, ...]:
    """What else the threat model says, of columns with these names or numbers."""
    rules = []
    for bound, word in ((threat.lower, "at least"), (threat.upper, "at most")):
        if bound is not None:
            values = np.unique(np.asarray(bound))
            values = values[np.isfinite(values)]
            if len(values) == 1 and np.ndim(bound) == 0:
                rules.append(f"every value stays {word} {values[0]:g}")
            elif len(values):
                rules.append(f"values stay {word} each column's bound")
    frozen = _frozen(threat)
    if frozen:
        which = ", ".join(str(columns[i]) for i in frozen)
        which = f": {which}" if len(frozen) <= _LISTED else ""
        rules.append(
            f"{len(frozen)} of {threat.movable.size} columns may not change{which}"
        )
    if threat.groups:
        rules.append(
            f"{len(threat.groups)} one-hot groups stay nonnegative with their sum"
        )
    if threat.absent == "frozen":
        rules.append("what is zero stays zero")
    if threat.prediction == "same_class":
        rules.append("only inputs whose predicted class stays count")
    if threat.prediction == "penalized":
        rules.append("the attack pays for changing the prediction")
    if threat.clip:
        rules.append("inputs outside of the box are moved inside first")
    return tuple(rules)
