"""The whole question in one call: can the top features of *this* model be trusted?"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax import attacks, metrics, programs
from r2et_jax import subject as subject_lib
from r2et_jax._callable import make_callable
from r2et_jax.attacks.ensemble import default_evaluations
from r2et_jax.audit import asked as asked_lib
from r2et_jax.audit import guards, measures, quality, regression
from r2et_jax.audit.inputs import (
    check_draws_nothing,
    check_explainer,
    check_output,
    is_coarse,
)
from r2et_jax.audit.layout import as_rows, of_rows
from r2et_jax.audit.progress import as_progress
from r2et_jax.audit.result import Audit
from r2et_jax.checks import (
    adapter_of,
    check_count,
    check_in,
    check_k,
    check_key,
    check_model,
    check_no_module,
)
from r2et_jax.context import in_context
from r2et_jax.execution import compile_chunked, kept
from r2et_jax.ranking.topk import positive_top_k_mask
from r2et_jax.subject import Form, Subject
from r2et_jax.threat import ThreatModel, threat_model
from r2et_jax.threat.definition import check_threat
from r2et_jax.threat.geometry import are_inside, check_inputs
from r2et_jax.tracing import traced_once
from r2et_jax.types import ApplyFn, Array, SaliencyFn


def audit(
    model: Subject | Any,
    *given: Any,
    k: int,
    threat: ThreatModel | None = None,
    epsilons: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    groups: Sequence[Sequence[int] | Array] = (),
    classes: Sequence[str] | None = None,
    output: str = "auto",
    target: int | None = None,
    batched: bool = False,
    channel_axis: int | str | None = "auto",
    smoothed: Callable[[float], ApplyFn] | None = None,
    explainer: Callable[..., SaliencyFn] | None = None,
    evaluations: int | None = None,
    certify: bool | str = "auto",
    key: Array | None = None,
    progress: bool | Callable[[int, int, str], None] | None = None,
) -> Audit:
    """Attack the top-k explanation of a model on given inputs, as hard as we know how.

    It compiles once in a process for each model and shape of the inputs.

    Args:
      model: a `Subject` or a model of another library that `r2et_jax.adapters` knows,
        followed by x; or a Flax Linen module or `apply(params, x) -> logits [C]` for
        one input, followed by params and x. C = 1 is a binary model with one logit.
      *given: (x,), or (params, x): params, a pytree of arrays, and
        finite inputs x [m, ...], m ≥ 1, of any shape: tables [m, n], images
        [m, H, W, C], sequences of embeddings [m, T, E]; or a pytree of such arrays,
        such as a dict of them. Integers are taken as floats, but by modules of other
        libraries, for which they may be tokens; floats of 16 bits as such of 32. The
        threat model's box and indices are those of one input laid out in a row, [n].
      k: size of the top set, in 1…n−1 of n explained features.
      threat: what the adversary may do; the l2 ball of radius 1 by default, which
        suits standardised columns.
      epsilons: further budgets at which P@k is measured; by default none, as each
        takes as long as the first: about 1 CPU second for 20 inputs of 30 features,
        compiled. Below the threat model's own budget the curve then stands on
        `Audit.on_the_way`, which costs no attack and is an upper bound: .96 at a
        quarter of the budget there, where an attack at that leaves .83. An input found
        under a smaller budget counts under a larger one; but for that P@k is, input by
        input, the one that the attack and `experiments.robustness` give with as many
        evaluations and this key.
      names: of the features, in order: of the n numbers of an input, or of what is
        explained (its pixels, tokens or variables); by default those of the columns,
        where x is a frame.
      groups: one-hot groups of columns, each indices or a boolean mask [n], each of
        which is explained as one variable, see `saliency.by_variable`.
      classes: names of the classes, in order.
      output: what the model and `smoothed(rho)` return: "logits"; "probabilities"
        [C] (C = 1: of class 1), which are converted; or "regression", one value or
        values [C]. "auto" takes logits, and refuses outputs that look like
        probabilities.
      target: the class, or the output of a regression, that is explained; by default
        the class that is predicted.
      batched: whether the model takes batches [m, ...] alone.
      channel_axis: the axis of one input that the explanation sums after |·|: −1 of
        embeddings [T, E] explains tokens. "auto" takes the last one of three, as of
        images [H, W, C], and none of others.
      smoothed: `smoothed(rho) -> apply`, the model with smooth activations of
        sharpness ρ, for attacks to take gradients of. By default it is read from the
        model's own program, see `programs.smooth`.
      explainer: factory of the explanation; `saliency.gradient` by default. A subject
        says this, and what is above from `names` to `batched`, itself.
      evaluations: of the gradient for each input and each of the budgets ε; by default
        as `attacks.ensemble.default_evaluations` says for an input's size, 16,000 for a
        table.
      certify: whether lower bounds of P@k are computed, and up to which distance each
        top feature provably stays: True, for every model whose program has bounds, see
        `certificates.certify`, at each budget and at four smaller ones, and by branch
        and bound within a second an input and budget where `exact_certificate` serves;
        False; or "auto", where that is quick: networks with one hidden layer,
        explained by the gradient.
      key: of the random starts; `jax.random.key(0)` by default.
      progress: True for a bar on stderr; or a function, called as
        `progress(done, total, what)` before each of the stages.

    Returns:
      `Audit`; print it for a summary, with what was left out and why; `save(folder)`
      writes it as a page.

    Raises:
      ValueError: for x of another shape or kind, a value of x that is not finite or
        lies outside of the threat model's box, k out of range, a model that does not
        take such inputs to logits [C], and any other argument that is not what is
        said above.

    Example:
      >>> from r2et_jax.models import MLP
      >>> model = MLP(activation="softplus")
      >>> x = jax.random.normal(jax.random.key(0), (4, 6))
      >>> params = model.init(jax.random.key(1), x[0])
      >>> report = audit(model, params, x, k=2, evaluations=4200)
      >>> report.top_k.shape
      (4, 2)
    """
    examined = model if isinstance(model, Subject) else None
    # Models of other libraries hold their parameters.
    adapted = examined is None and adapter_of(model) not in (None, "linen")
    if len(given) != (2 if examined is None and not adapted else 1):
        if adapted:
            check_no_module("params", given[0] if given else None)
            check_no_module("model", model)
        if isinstance(model, type):
            check_no_module("model", model)
        raise ValueError(
            "audit takes audit(subject, x, k=…) or audit(model, params, x, k=…), where "
            f"params may be None, got {len(given)} arguments after a "
            f"{type(model).__name__}: a function of NumPy arrays, such as an "
            "estimator's predict_proba, is for r2et_jax.adapters.black_box"
        )
    check_in("output", output, subject_lib.OUTPUTS)
    layout, x = as_rows(given[-1], channel_axis)
    asked_lib.check_masks(groups, layout.size)
    options = {
        "names": names,
        "groups": groups,
        "classes": classes,
        "output": output,
        "target": target,
        "batched": batched,
        "smoothed": smoothed,
        "explainer": explainer,
    }
    if adapted:
        examined = asked_lib.adapted(model, given[0], **options)
    elif examined is None:
        examined = asked_lib.subject_of_parts(model, given[0], layout, x, **options)
    else:
        _refuse_twice(options)
    if examined.names is None and hasattr(given[-1], "columns"):
        columns = tuple(map(str, given[-1].columns))
        examined = dataclasses.replace(examined, names=columns)
    threat = threat_model() if threat is None else threat
    check_threat(threat)
    check_inputs(threat, x)
    if threat.movable is not None and not np.any(threat.movable):
        raise ValueError(
            f"the threat model must let a column change, got all {layout.size} frozen"
        )
    coarse = is_coarse(threat, x)
    budgets = asked_lib.budgets(threat, epsilons)
    evaluations = (
        default_evaluations(layout.size) if evaluations is None else evaluations
    )
    check_count("evaluations", evaluations)
    if not isinstance(certify, str | bool) or certify not in (True, False, "auto"):
        raise ValueError(f"certify must be True, False or 'auto', got {certify!r}")
    key = jax.random.key(0) if key is None else key
    check_key(key)
    shown = asked_lib.explained(examined, layout)
    examined = dataclasses.replace(shown, form=of_rows(shown.form, layout))
    _check_context(examined.context, len(x))
    centred = examined
    if examined.output == "regression":
        centred = regression.centred(examined, x)
    params, context = centred.params, centred.context
    first = in_context(params, jax.tree.map(lambda leaf: leaf[0], context))
    outputs = check_model(centred.apply, first, x[0])
    check_draws_nothing(centred.apply, first, x[0])
    if examined.classes is not None and len(examined.classes) != max(2, outputs):
        raise ValueError(
            f"classes must be as many as the model's, {max(2, outputs)}, got "
            f"{examined.classes}"
        )
    if examined.output == "auto":
        check_output("auto", examined.apply, params, x, context)
    count = check_explainer(centred.form.explainer, centred.apply, first, x[0])
    check_k(k, count)
    names = asked_lib.explained_names(examined, layout, given[-1], count)
    asked = asked_lib.asked(
        shown, layout, threat, x, k=k, names=names, evaluations=evaluations,
        certify=certify, key=key, left=_left(centred.form, first, x[0]),
    )  # fmt: skip
    if examined.output == "regression" and threat.prediction != "free":
        raise ValueError(
            "a regression has no class that stays: its threat model must have "
            f"prediction='free', got {threat.prediction!r}"
        )
    tell = _teller(progress, len(budgets))
    form = centred.form._replace(explainer=_passing_nan(centred.form.explainer))
    victim = Subject(params, form, context, output="logits")
    attack = attacks.attack("strongest", k=k, evaluations=evaluations)
    curve = measures.curve(attack, victim, x, threat, budgets, key=key, tell=tell)
    main = budgets.index(float(threat.epsilon))
    attacked = curve.at(main)
    index = np.arange(len(x), dtype=np.uint32)
    tell("the guards")
    seen, kept, flat = _looking(traced_once(form), k)(
        (params, threat, key), (x, attacked.map, index, context)
    )
    excluded = np.select(
        [
            ~np.isfinite(seen.score),
            ~np.isfinite(seen.map).all(1),
            seen.num_positive == 0,
        ],
        [
            "whose output is not finite",
            "whose explanation is not finite",
            "whose explanation is zero everywhere",
        ],
        "",
    )
    counted = excluded == ""
    tell("thickness and faithfulness")
    worth = quality.measured(
        form, params, x, attacked.perturbed, threat, k=k, count=count, key=key,
        features=quality.feature_of_columns(examined.groups, layout, count),
        output=examined.output, evaluations=evaluations, context=context,
    )  # fmt: skip
    tell("the distances")
    way = measures.on_the_ways(form, params, x, curve, threat, k, budgets[-1], context)
    tell("what is provable")
    certified = measures.certified(
        examined, layout, x, threat, budgets, seen.top_k, certify=certify
    )
    tell("")

    def of_counted(values, *, of_class=False):
        # A regression has no class that could stay.
        known = counted & ~(of_class & (examined.output == "regression"))
        return np.where(known, values, np.nan)

    return Audit(
        precision=of_counted(attacked.precision),
        precision_same_class=of_counted(attacked.precision_same_class, of_class=True),
        perturbed=attacked.perturbed,
        maps=seen.map,
        top_k=seen.top_k,
        kept=kept & counted[:, None],
        same=_same(seen.map[counted], x[counted], k),
        noise_precision=of_counted(seen.noise_precision),
        vanished=float(flat[counted].mean())
        if counted.any() and form.differentiable
        else np.nan,
        predicted=seen.predicted,
        excluded=excluded,
        num_positive=seen.num_positive,
        tied=counted & (seen.num_positive > k) & seen.tied,
        moved=~are_inside(threat, x).all(axis=1),
        coarse=coarse,
        x=x,
        perturbed_maps=attacked.map,
        outputs=regression.as_given(centred, attacked.clean_outputs),
        perturbed_outputs=regression.as_given(centred, attacked.outputs),
        epsilons=np.array(budgets),
        curve=of_counted(curve.precision),
        curve_same_class=of_counted(curve.precision_same_class, of_class=True),
        distances=np.where(counted[:, None], way.distances, np.nan),
        on_the_way=measures.joined(way, budgets, of_counted(curve.precision)),
        certified=certified,
        nearest=measures.nearest(x, threat.norm),
        quality=worth,
        asked=asked,
    )


def _refuse_twice(options: dict[str, Any]) -> None:
    """Raise where a subject's own answers are given beside it."""
    defaults = {"groups": (), "output": "auto", "batched": False}
    for name, value in options.items():
        plain = isinstance(value, str | bool | tuple | list)
        if value is None or (plain and value in (defaults.get(name), [])):
            continue
        raise ValueError(
            f"a subject has its own {name}: say it to subject(…), got {value!r} here"
        )


def _check_context(context: Any, m: int) -> None:
    for leaf in jax.tree.leaves(context):
        if np.ndim(leaf) < 1 or len(leaf) != m:
            raise ValueError(
                f"a subject's context must hold one entry for each of the {m} inputs, "
                f"got an array of shape {np.shape(leaf)}"
            )


def _teller(progress: Any, num_budgets: int) -> Callable[[str], None]:
    """`tell(what)` of the stage that begins; "" is the end."""
    progress = as_progress(progress)
    total, done = num_budgets + 4, iter(range(num_budgets + 5))

    def tell(what: str) -> None:
        number = next(done)
        if progress is not None:
            progress(number, total, what or "done")

    return tell


def _same(maps: np.ndarray, x: np.ndarray, k: int) -> float:
    """Mean overlap of the top sets of distinct inputs; NaN if there is only one."""
    _, first = np.unique(x, axis=0, return_index=True)
    if len(first) < 2:
        return float("nan")
    return float(metrics.mean_topk_overlap(maps[first], k=k))


@functools.lru_cache(maxsize=256)
def _passing_nan(explainer):
    """An explainer whose maps are NaN where the score is.

    A branch that returns NaN has the gradient zero: a map without saliency, which would
    pass for a ranking that an attack has destroyed.
    """

    def of_score(score, **options):
        explain = explainer(score, **options)

        def saliency(params, x, target, /):
            poison = jnp.where(jnp.isnan(score(params, x, target)), jnp.nan, 1)
            return explain(params, x, target) * poison

        return saliency

    return of_score


def _left(form: Form, params, x) -> dict[str, int]:
    """Where the model's program switches without a smooth form; of a black box none."""
    return programs.describe(form.apply, params, x).left if form.differentiable else {}


@kept
def _looking(form: Form, k: int):
    """The guards of a batch and what an attack kept of the top sets, compiled."""
    look, vanished = guards.look(form, k=k), guards.has_vanished(form, k=k)

    def of_input(params, threat, key, x, attacked_map, index, context):
        params = in_context(params, context)
        seen = look(params, x, key=jax.random.fold_in(key, index))
        before, after = (
            positive_top_k_mask(values, k=k) for values in (seen.map, attacked_map)
        )
        return seen, (before & after)[seen.top_k], vanished(params, x, threat)

    def chunk(shared, batched):
        return jax.vmap(of_input, (None, None, None, 0, 0, 0, 0))(*shared, *batched)

    return compile_chunked(chunk, work="little")


# The package is a function, too; see `_callable`.
make_callable("r2et_jax.audit")
