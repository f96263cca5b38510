"""Training objectives by name: cross-entropy plus a weighted sum of penalties.

`objective("r2et", apply, k=8)` builds a loss; names joined by `+` sum their
penalties, as in `wd+r2et_nh`. The names are in `methods`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from r2et_jax.attacks.protocols import SURROGATE_RHO
from r2et_jax.certificates.agreement import layers_check
from r2et_jax.checks import (
    check_count,
    check_labels,
    check_no_batch_statistics,
    check_positive,
    check_weights,
    shape_of_outputs,
)
from r2et_jax.objectives.architecture import check_skip, check_smooth, one_input
from r2et_jax.objectives.certified import Layers
from r2et_jax.objectives.curvature_penalties import Split
from r2et_jax.objectives.loss import Objective
from r2et_jax.objectives.methods import METHODS, TERMS, Setting, method
from r2et_jax.score import (
    check_no_probabilities,
    cross_entropy,
    predicted_class,
)
from r2et_jax.subject import Subject
from r2et_jax.types import ApplyFn


def _architecture(name: str) -> list[tuple[str, Callable[..., None]]]:
    """What the parts of a name ask of the model: pairs (part, check)."""
    parts = [(part, METHODS[part]) for part in name.split("+")]
    smooth = [(part, check_smooth) for part, asked in parts if asked.smooth]
    return smooth + [(part, check_skip) for part, asked in parts if asked.skip]


def _first(batch: Any, most: int | None) -> Any:
    """The first examples of a batch, all of them where there is no limit."""
    return jax.tree.map(lambda leaf: leaf[:most], batch)


def objective(
    name: str,
    model: Subject | ApplyFn,
    /,
    *,
    k: int,
    k_prime: int | None = None,
    surrogate: ApplyFn | None = None,
    epsilon: float = 1.0,
    layers: Layers | None = None,
    split: tuple[ApplyFn, ApplyFn] | None = None,
    channels: int = 1,
) -> Objective:
    """Cross-entropy plus the penalties of a method, as means over the batch.

    With `at` the cross-entropy is that at an attacked input alone.

    Args:
      name: a name of `NAMES`, or several joined by `+`.
      model: `apply(params, x)` of one example, or a subject, which brings its smooth
        stand-in and its layers; its parameters have no part in it. Methods of `METHODS`
        that are `smooth` or have a `skip` change the model, not the loss: it must be
        such a one already.
      k: size of the top set.
      k_prime: pairs of the forms that take the smallest gaps; k by default. That of
        `r2et_mm_k` is k in any case, or n − k where that is less.
      surrogate: smooth stand-in with the same parameters, through which attacks inside
        `at`, `at_mixed`, `adv_gap` and `rat` go. By default that of the subject; of a
        bare function the function itself, which hides its ranking from them if it is
        piecewise linear.
      epsilon: radius of the l2 ball of those attacks, of `cert_rank` and of `ig_norm`,
        the step of `cure`, the margin of `ratio_hinge`; 1 suits standardised columns.
      layers: `layers(params)`, the weights of a network with one hidden layer and one
        logit, as `models.MLP.layers`; for `cert_rank` alone, which without them bounds
        the gradient's program: any smooth model. Its bounds are far dearer than the
        loss; the penalty's mean is that of the first 16 examples of a batch.
      split: the model as `(inner, outer)`, as `models.siamese.pair_split` gives it;
        with a piecewise-linear inner part `exact_h` and `ssr` have a closed form.
      channels: neighbouring values of x whose saliencies are summed after |·| and
        ranked as one feature, such as the channels of a pixel in a flat image; a
        divisor of n. k then counts pixels. Curvature stays that of x.

    Returns:
      `Objective`. Its loss takes one weight for each of `terms` (that of `tau` is the
      step of `est_h_fd`, from 1e-6 to 1e-1 as published), as an array, so that
      a grid of weights shares one compiled program; `reference` are the parameters
      of the model whose ranking is kept, or None for the model being trained; `key`
      is this batch's, for methods that draw at random (`hutchinson_h`, `rat`,
      `mc_thickness`), and `progress` the share of training done, in [0, 1]. Labels that
      are no class and weights below 0 give NaN where they are traced.

    Raises:
      ValueError: for an unknown or repeated name, epsilon ≤ 0, channels < 1, or
        `cert_rank` with channels > 1; when the loss is traced, for k
        or k_prime out of range, channels that don't divide n, another number of
        weights, another model than a method trains (kinks in the activation where it
        is `smooth`, no linear part where it has a `skip`), a random
        method without key, labels of another shape or dtype, params that hold batch
        statistics; when called, for labels and weights known to be out of range.

    Example:
      >>> from r2et_jax.models import MLP
      >>> objective("r2et", MLP().apply, k=8).terms
      ('gap', 'curvature')

    Source: R2ET (arXiv 2212.14106), section 4.
    """
    asked = method(name)
    terms = asked.terms
    apply = model
    if isinstance(model, Subject):
        apply = model.apply
        surrogate = model.stand_in(SURROGATE_RHO) if surrogate is None else surrogate
        layers = model.layers if layers is None else layers
    check_positive("epsilon", epsilon)
    check_count("channels", channels)
    check_count("k", k)
    setting = Setting(
        k,
        k if k_prime is None else k_prime,
        apply if surrogate is None else surrogate,
        epsilon,
        layers,
        None if split is None else Split(*split),
        channels,
    )
    parts = [TERMS[term] for term in terms]
    built = [part.build(apply, setting) if part.build else None for part in parts]
    attacked = TERMS["adv_loss"].build(apply, setting) if asked.attacked else None
    architecture = _architecture(name)
    if "certified_gap" in terms and layers is not None:
        check_layers = layers_check(apply, layers)
        architecture.append(
            ("cert_rank", lambda _, __, params, x: check_layers(params, one_input(x)))
        )
    is_random = any(part.random for part in parts)

    def check(params, x, y, weights, /):
        check_given(params, weights)
        outputs = shape_of_outputs(jax.vmap(apply, (None, 0)), params, x)
        if not isinstance(model, Subject) or model.output == "auto":
            check_no_probabilities(apply, params, one_input(x))
        check_data(params, x, y, outputs)

    def check_given(params, weights):
        if jnp.shape(weights) != (len(terms),):
            raise ValueError(
                f"{name} takes one weight for each of its penalties {terms}, got "
                f"weights of shape {jnp.shape(weights)}"
            )
        check_weights(f"weights of {terms}", weights)
        check_no_batch_statistics(params)

    def check_data(params, x, y, logits):
        if getattr(logits, "ndim", 0) == 2:  # others are refused by cross_entropy
            check_labels("y", y, len(logits), max(logits.shape[1], 2))
        for part, check_model in architecture:
            check_model(part, apply, params, x)

    def loss(params, x, y, weights, /, *, reference=None, key=None, progress=1.0):
        check_given(params, weights)
        if is_random and key is None:
            raise ValueError(f"{name} draws at random: pass a key, got None")
        logits = jax.vmap(apply, (None, 0))(params, x)
        check_data(params, x, y, logits)
        if attacked is None:
            each = jax.vmap(cross_entropy)(logits, y)
        else:
            each = jax.vmap(functools.partial(attacked, params, reference=reference))(
                x, y
            )
        total = jnp.mean(each)
        target = predicted_class(jax.lax.stop_gradient(logits))
        for i, (part, penalty) in enumerate(zip(parts, built, strict=True)):
            if part.decay or part.number:
                continue
            if part.on_params:
                value = part.on_params(params)
            else:
                fixed = {"progress": progress} if part.ramped else {}
                fixed["reference"] = reference
                fixed |= {name: weights[terms.index(name)] for name in part.numbers}
                each = jax.vmap(functools.partial(penalty, params, **fixed))
                about = y if part.of_label else target
                drawn = {}
                if part.random:
                    drawing_key = jax.random.fold_in(key, i)
                    drawn["key"] = jax.random.split(drawing_key, x.shape[0])
                most = part.most(setting) if part.most else None
                rows = _first((x, about, drawn), most)
                value = jnp.mean(each(*rows[:2], **rows[2]))
            total += weights[i] * value
        if terms:
            # Traced weights below 0 would reward what they are to penalise.
            usable = jnp.all((weights >= 0) & (weights < jnp.inf))
            total *= jnp.where(usable, 1, jnp.nan).astype(total.dtype)
        return total

    def decay(weights, /):
        return weights[[part.decay for part in parts].index(True)]

    has_decay = any(part.decay for part in parts)
    return Objective(loss, terms, decay if has_decay else None, check)
