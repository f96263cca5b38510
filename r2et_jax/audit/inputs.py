"""What the audit takes, and what it refuses: each refusal says what to do instead."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax import score
from r2et_jax.context import in_context
from r2et_jax.execution import hashable, jit, kept
from r2et_jax.subject import Subject
from r2et_jax.threat import ThreatModel

# Inputs that are scaled to see what a model returns far away, and the factors.
_PROBES, _FACTORS = 16, (-10.0, 10.0, 100.0)
# Of a function that a program holds, as it is printed.
_ADDRESS = re.compile(r"0x[0-9a-f]+")
# Steps of a budget's size that floats should at least tell apart.
_STEPS = 16


def check_smoothed(smoothed, apply, params, x) -> None:
    """Raise unless it makes models of the same outputs, of sharpness ρ."""
    message = (
        "smoothed must be a function of the sharpness that returns a model of the same "
        "outputs, such as lambda rho: model.surrogate(rho=rho).apply, got "
        f"{smoothed!r}"
    )
    try:
        smooth = smoothed(1.0)
        same = jax.eval_shape(smooth, params, x) == jax.eval_shape(apply, params, x)
    except Exception as error:
        raise ValueError(f"{message}; rho = 1 gives: {error}") from error
    if not same:
        raise ValueError(message)


def check_explainer(explainer, apply, params, x) -> int:
    """Raise unless it makes explanations [n] of a score.

    Returns:
      n.
    """
    message = (
        "explainer must be a factory of explanations, called as saliency.gradient is: "
        f"explainer(score, normalize=True)(params, x, target) -> [n], got {explainer!r}"
    )
    if not callable(explainer):
        raise ValueError(message)
    try:
        made = _maps(explainer, apply, params, x)
    except Exception as error:
        if "'key'" in str(error):
            message += (
                ". One that draws noise needs its key bound: lambda score, **options: "
                "functools.partial(saliency.smooth_grad(score, **options), key=key)"
            )
        _check_gradient(score.log_odds(apply), params, x, jnp.zeros((), jnp.int32))
        raise ValueError(f"{message}; calling it gives: {error}") from error
    if len(made.shape) != 1:
        raise ValueError(f"{message}, whose maps have shape {made.shape}")
    if not jnp.issubdtype(made.dtype, jnp.floating):
        raise ValueError(
            f"{message}, whose maps must be floats, got dtype {made.dtype}"
        )
    return made.shape[0]


def _maps(explainer, apply, params, x) -> jax.ShapeDtypeStruct:
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda *args: args, params, x))
    try:
        hash(explainer)
    except TypeError:
        return _traced.__wrapped__(explainer, apply, structure, tuple(leaves))
    return _traced(explainer, hashable(apply), structure, tuple(leaves))


@kept
def _traced(explainer, apply, structure, leaves):
    """What explanations are, which is traced once for a model, in both forms."""
    params, x = jax.tree.unflatten(structure, leaves)
    target = jax.ShapeDtypeStruct((), jnp.int32)
    log_odds = score.log_odds(apply)
    explain = explainer(log_odds, normalize=False)
    made = jax.eval_shape(explain, params, x, target)
    jax.eval_shape(explainer(log_odds), params, x, target)
    return made


def _check_gradient(log_odds, params, x, target) -> None:
    """Raise where it is the model that has no gradient, whatever the explainer."""
    try:
        jax.eval_shape(jax.grad(log_odds, argnums=1), params, x, target)
    except Exception as error:
        raise ValueError(
            "the model must have a gradient by x, got one of whose parts JAX takes "
            "none: write a while_loop as a scan or a fori_loop of fixed length, give a "
            "callback a derivative (jax.custom_jvp), or audit what it predicts alone, "
            f"see r2et_jax.adapters.black_box; jax.grad says: {error}"
        ) from error


def is_coarse(threat: ThreatModel, x: np.ndarray) -> np.ndarray:
    """Inputs whose values are so large that changes of ε are lost in their rounding.

    Returns:
      Boolean [m]: whether the spacing of floats is above a sixteenth of ε in a column
      that may move.

    Raises:
      ValueError: where it is above ε in all such columns of all inputs, so that nothing
        can be asked.
    """
    epsilon = float(threat.epsilon)
    movable = slice(None) if threat.movable is None else np.asarray(threat.movable)
    spacing = np.spacing(np.abs(x))[:, movable]
    if epsilon and (spacing > epsilon).all():
        raise ValueError(
            f"x must hold values that a change of ε = {epsilon:g} can move, got "
            f"magnitudes of {np.abs(x).min():.3g} and more, and the next number of "
            f"{x.dtype} is {spacing.min():.3g} away: standardise the columns, or use "
            "float64"
        )
    return (spacing > epsilon / _STEPS).any(axis=1) & bool(epsilon)


def check_draws_nothing(apply, params, x) -> None:
    """Raise for a model that is another one each time that it is traced."""
    # Of one function JAX keeps what it traced: each time another one.
    traced = [jax.make_jaxpr(lambda *p: apply(*p))(params, x) for _ in range(2)]
    texts = {_ADDRESS.sub("", str(closed.jaxpr)) for closed in traced}
    held = zip(*(closed.consts for closed in traced), strict=len(texts) == 1)
    if len(texts) > 1 or not all(_is_same(*pair) for pair in held):
        raise ValueError(
            "the model must be the same function each time, got one that changes from "
            "one tracing to the next, as one does that draws numbers from numpy.random "
            "or random: pass what it draws as a part of params, or predict without "
            "noise (dropout off)"
        )


def _is_same(a, b) -> bool:
    """Whether two arrays that a program holds are equal, NaN and random keys too."""
    if a is b:
        return True
    if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def check_output(output, apply, params, x, context) -> None:
    """Raise where the outputs look like another kind than was said."""
    some = [np.arange(len(x))]
    some += [some[0][:_PROBES]] * (len(_FACTORS) if output == "auto" else 0)
    factors = np.repeat((1.0, *_FACTORS)[: len(some)], [len(rows) for rows in some])
    rows = np.concatenate(some)
    x = x[rows] * factors.astype(x.dtype)[:, None]
    context = jax.tree.map(lambda leaf: leaf[rows], context)
    values = np.asarray(_outputs(hashable(apply))(params, x, context))
    values = values[np.isfinite(values).all(axis=1)]
    if not len(values):
        return
    least, most = values.min(), values.max()
    got = f"{least:g} … {most:g}"
    if output == "probabilities":
        sums = values.sum(axis=1)
        if least < 0 or most > 1 + 1e-5:
            raise ValueError(f"probabilities must lie in [0, 1], got {got}")
        if values.shape[1] > 1 and np.abs(sums - 1).max() > 1e-2:
            worst = sums[np.abs(sums - 1).argmax()]
            raise ValueError(f"probabilities must sum to 1, got a sum of {worst:g}")
    elif least >= 0 and most <= 1 and (values != values[0]).any():
        raise ValueError(
            f"apply must return logits, but all its outputs, also far from x, lie in "
            f"[0, 1] as probabilities do ({got}): pass output='probabilities' to have "
            "them converted, or output='logits' if they are logits"
        )


def outputs_of(subject: Subject, x: np.ndarray) -> np.ndarray:
    """What the model returns for rows [m, n]: [m, C]."""
    run = _outputs(hashable(subject.apply))
    return np.asarray(run(subject.params, x, subject.context))


@kept
def _outputs(apply):
    def run(params, x, context):
        each = jax.vmap(lambda x, with_it: apply(in_context(params, with_it), x))
        return each(x, context)

    return jit(run, work="little")
