"""The model under examination, as one value.

What belongs together is said once: the model and its parameters, the smooth stand-in
that attacks take gradients of, how it is explained, what its inputs and classes are
called. Attacks, certificates, objectives and the audit take this value.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import jax
import numpy as np

from r2et_jax import programs, score
from r2et_jax import saliency as saliency_lib
from r2et_jax._callable import make_callable
from r2et_jax.checks import (
    as_array,
    check_count,
    check_finite,
    check_in,
    check_labels,
    check_model,
    check_no_module,
    feature_indices,
    is_linen,
)
from r2et_jax.context import check_subject, in_context
from r2et_jax.execution import drive_chunks, hashable, jit, kept
from r2et_jax.tracing import examples_in_cache
from r2et_jax.types import ApplyFn, Array, Params, SaliencyFn

__all__ = ["Subject", "explain", "subject"]

OUTPUTS = ("auto", "logits", "probabilities", "regression")


class Form(NamedTuple):
    """What of a subject is no data: functions, by which compiled programs are kept.

    Attributes:
      apply: `apply(params, x) -> logits [C]` for one input.
      smoothed: `smoothed(rho) -> apply` of the smooth stand-in, or None to read it from
        the model's own program.
      explainer: factory of the explanation, called with a score and `normalize=`.
      differentiable: whether the model has gradients; a black box has none, and is
        searched at random.
    """

    apply: ApplyFn
    smoothed: Callable[[float], ApplyFn] | None = None
    explainer: Callable[..., SaliencyFn] = saliency_lib.gradient
    differentiable: bool = True

    def stand_in(self, rho: Array | float) -> ApplyFn:
        """The smooth function of sharpness ρ that gradients go through.

        A stand-in that is the model itself hides nothing of its kinks: it is read from
        the program, too.

        Raises:
          ValueError: for a black box, which has no gradients, and a `smoothed` that
            does not take a sharpness alone.
        """
        if not self.differentiable:
            raise ValueError(
                "a black box has no gradients and no smooth stand-in: attack it by "
                "'random' or 'strongest', which searches at random"
            )
        if self.smoothed is not None:
            try:
                made = self.smoothed(rho)
            except TypeError as error:
                raise ValueError(
                    "smoothed must be a function of the sharpness that returns a "
                    "model, such as lambda rho: model.surrogate(rho=rho).apply; it "
                    f"gives: {error}"
                ) from error
            # Not `is`: each look at `module.apply` makes another bound method.
            if made != self.apply:
                return made
        return programs.smooth(self.apply, rho=rho)

    def saliency(self) -> SaliencyFn:
        """The explanation of the log-odds, whose ranking is the probability's."""
        return self.explainer(score.log_odds(self.apply))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "context"],
    meta_fields=["form", "names", "groups", "shape", "output", "classes", "layers"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A model under examination. Build it with `subject`, which checks its arguments.

    It is a pytree, of which the parameters and the contexts are data: other parameters
    of the same form cost no compilation.

    Attributes:
      params: parameters, a pytree of arrays.
      form: the functions, see `Form`; `apply`, `stand_in` and `saliency` are its own.
      context: what belongs to each input beside it, a pytree of arrays [m, ...], or
        None: input i is predicted by `apply((params, context_i), x_i)`.
      names: of the n features, or None.
      groups: one-hot groups, tuples of feature indices.
      shape: of one input, or None where it was not said.
      output: what the model that was given returns; `apply` returns logits.
      classes: names of the classes, or None.
      layers: `layers(params)`, the weights of a network with one hidden layer, which
        certificates are made of, or None.
    """

    params: Params
    form: Form
    context: Any = None
    names: tuple[str, ...] | None = None
    groups: tuple[tuple[int, ...], ...] = ()
    shape: tuple[int, ...] | None = None
    output: str = "auto"
    classes: tuple[str, ...] | None = None
    layers: Callable[[Params], Any] | None = None

    @property
    def apply(self) -> ApplyFn:
        """`apply(params, x) -> logits [C]` for one input."""
        return self.form.apply

    def stand_in(self, rho: Array | float) -> ApplyFn:
        """The smooth function of sharpness ρ that gradients go through."""
        return self.form.stand_in(rho)

    def saliency(self) -> SaliencyFn:
        """The explanation of the log-odds, `saliency(params, x, target) -> map`."""
        return self.form.saliency()

    def at(self, params: Params, context: Any = None) -> Subject:
        """The same model with other parameters, and other contexts or none."""
        return dataclasses.replace(self, params=params, context=context)


def subject(
    model: Any,
    params: Params,
    *,
    smoothed: Callable[[float], ApplyFn] | None = None,
    explainer: Callable[..., SaliencyFn] = saliency_lib.gradient,
    output: str = "auto",
    target: int | None = None,
    batched: bool = False,
    names: Sequence[str] | None = None,
    groups: Sequence[Sequence[int] | Array] = (),
    shape: tuple[int, ...] | None = None,
    classes: Sequence[str] | None = None,
    layers: Callable[[Params], Any] | None = None,
    context: Any = None,
    differentiable: bool = True,
) -> Subject:
    """The model under examination, which attacks, certificates and the audit take.

    Args:
      model: a Flax Linen module, or `apply(params, x)` for one input.
      params: its parameters, a pytree of arrays; None for a form without parameters
        yet, see `Subject.at`.
      smoothed: `smoothed(rho) -> apply`, the model with smooth activations of sharpness
        ρ for the same parameters. By default it is read from the model's own program,
        see `programs.smooth`: a kinked model needs nothing.
      explainer: factory of the explanation, such as `saliency.gradient`.
      output: what the model and `smoothed(rho)` return for one input: "logits" [C],
        C = 1 of a binary model, or "probabilities" [C] (C = 1: of class 1), which are
        converted, or "regression", one value or values [C]. "auto" takes logits, and
        the audit refuses what looks like probabilities.
      target: the class, or the output of a regression, that is explained at every
        input; by default the predicted class. `apply` then returns [1]: its log-odds
        against all others, or the value.
      batched: whether the model and `smoothed(rho)` take batches [m, ...] alone.
      names: of the n features, in order.
      groups: one-hot groups of features, each one indices or a boolean mask [n].
      shape: of one input; with parameters the model is checked against it.
      classes: names of the classes, in order.
      layers: `layers(params)`, the weights of a network with one hidden layer and one
        logit, for certificates; a module that has them, as `models.MLP`, brings them.
      context: what belongs to each input beside it, a pytree of arrays [m, ...], such
        as the partners of a model of pairs.
      differentiable: False of a black box, whose explainer takes no gradients, such as
        `saliency.occlusion`; see `adapters.black_box`.

    Returns:
      `Subject`.

    Raises:
      ValueError: for a model that is neither, an unknown kind of output, batches with
        a context, names that
        are no different texts or as many as the shape says, groups that overlap or are
        beyond it, a shape that the model does not take.

    Example:
      >>> import jax.numpy as jnp
      >>> from r2et_jax.models import MLP
      >>> model = MLP()
      >>> params = model.init(jax.random.key(0), jnp.zeros(3))
      >>> examined = subject(model, params, names=("age", "hours", "gain"))
      >>> examined.apply(examined.params, jnp.ones(3)).shape
      (1,)
      >>> explain(examined, jnp.ones((2, 3))).shape
      (2, 3)
    """
    check_in("output", output, OUTPUTS)
    apply = model
    if is_linen(model):
        apply = model.apply
        layers = _own_layers(model, params) if layers is None else layers
    check_no_module("model", apply)
    if not callable(apply):
        raise ValueError(
            "model must be a Flax Linen module or a function, apply(params, x) -> "
            f"logits [C], got {apply!r}"
        )
    if not callable(explainer):
        raise ValueError(
            "explainer must be a factory of explanations, such as saliency.gradient, "
            f"got {explainer!r}"
        )
    for name, fn in (("smoothed", smoothed), ("layers", layers)):
        if fn is not None and not callable(fn):
            raise ValueError(f"{name} must be a function, got {fn!r}")
    if target is not None:
        check_count("target", target, minimum=0)
    if not isinstance(batched, bool | np.bool_):
        raise ValueError(f"batched must be True or False, got {batched!r}")
    if classes is not None and output == "regression":
        raise ValueError(f"a regression has no classes, got {classes!r}")
    if batched and context is not None:
        raise ValueError(
            "a model with contexts takes one input at a time, got batched=True and a "
            "context"
        )
    apply = hashable(apply)
    for convert in _conversions(output, target, batched):
        apply, smoothed = convert(apply), _smoothed(convert, smoothed)
    classes = _texts("classes", classes, None)
    if target is not None and output != "regression":
        known = classes is not None and target < len(classes)
        name = classes[target] if known else f"class {target}"
        classes = f"not {name}", name
    shape = None if shape is None else tuple(map(int, shape))
    size = None if shape is None else int(np.prod(shape))
    form = Form(apply, smoothed, explainer, differentiable)
    made = Subject(
        params,
        form,
        context,
        names=_texts("names", names, size),
        groups=_groups(groups, size),
        shape=shape,
        output=output,
        classes=classes,
        layers=layers,
    )
    if shape is not None and params is not None:
        first = jax.tree.map(lambda leaf: leaf[0], context)
        check_model(
            apply, in_context(params, first), jax.ShapeDtypeStruct(shape, float)
        )
    return made


def _own_layers(model: Any, params: Params) -> Callable[[Params], Any] | None:
    """A module's `layers`, unless it says that this network has none such."""
    layers = getattr(model, "layers", None)
    if layers is None or params is None:
        return layers

    def called(params):
        layers(params)  # its slopes and lines are functions

    try:
        jax.eval_shape(called, params)
    except (ValueError, LookupError, TypeError, AttributeError):
        return None  # parameters of another model, too, which is said later
    return layers


def explain(
    subject: Subject,
    x: Array,
    target: Array | None = None,
    *,
    batch_size: int | None = None,
) -> np.ndarray:
    """The explanations of a batch, compiled once for each form and shape.

    Args:
      subject: the model, with its explainer.
      x: inputs [m, ...].
      target: the class that is explained of each input [m], or one of them for all; by
        default the predicted one.
      batch_size: inputs at a time on each device, at most; bounds the memory. By
        default as in `execution.compile_chunked`.

    Returns:
      Maps [m, ...] on the host.

    Raises:
      ValueError: for an empty batch, one input in place of a batch, inputs of a shape
        that the model does not take, x that holds no finite floats, targets that are no
        class indices or of another number.

    Example:
      >>> import jax.numpy as jnp
      >>> examined = subject(lambda params, x: (params * x**2).sum()[None], jnp.ones(3))
      >>> print(explain(examined, jnp.array([[1.0, 2.0, 1.0]])))
      [[0.25 0.5  0.25]]
    """
    if batch_size is not None:
        check_count("batch_size", batch_size)
    check_subject(subject)
    is_array = hasattr(x, "shape")
    for at, leaf in jax.tree_util.tree_leaves_with_path(x):
        name, values = f"x{jax.tree_util.keystr(at)}", as_array(leaf)
        if not jax.numpy.issubdtype(values.dtype, jax.numpy.floating):
            raise ValueError(f"{name} must hold floats, got dtype {values.dtype}")
        if values.ndim < (2 if is_array else 1):
            raise ValueError(
                f"{name} must be a batch [m, ...] of inputs, got shape {values.shape}; "
                "one input x is the batch x[None]"
            )
        check_finite(name, values)
    score.check_takes(subject, x)
    if target is not None:
        target = _targets(subject, x, target)
    run = _explaining(subject.form, batch_size)
    return run(subject.params, (x, target, subject.context))


def _targets(subject: Subject, x: Any, target: Any) -> np.ndarray:
    """The classes that are explained [m]."""
    m = len(jax.tree.leaves(x)[0])
    example, context = jax.tree.map(lambda leaf: leaf[0], (x, subject.context))
    params = in_context(subject.params, context)
    outputs = jax.eval_shape(subject.apply, params, example).shape[0]
    target = np.asarray(target)
    check_labels("target", np.broadcast_to(target, (m,)), m, max(2, outputs))
    return np.broadcast_to(target, (m,))


@kept
def _explaining(form: Form, batch_size: int | None):
    saliency = form.saliency()

    def explained(params, x, target, context):
        params = in_context(params, context)
        if target is None:
            target = score.predicted_class(form.apply(params, x))
        return saliency(params, x, target)

    def chunk(params, batched):
        return jax.vmap(explained, (None, 0, 0, 0))(params, *batched)

    compiled = jit(chunk)

    @functools.cache
    def driven(in_cache):
        return drive_chunks(compiled, batch_size=batch_size, in_cache=in_cache)

    sizes: dict[Any, int] = {}

    def run(params, batched):
        shapes = jax.tree.map(lambda leaf: (np.shape(leaf), leaf.dtype), batched)
        shape = str((shapes, jax.tree.map(np.shape, params), jax.config.jax_enable_x64))
        if shape not in sizes:
            sizes[shape] = examples_in_cache(explained, params, batched)
        return driven(sizes[shape])(params, batched)

    return run


# One object for the same model, by which compiled programs are found again.
_one_by_one = functools.lru_cache(maxsize=256)(score.of_batches)
_refusing = functools.lru_cache(maxsize=256)(score.refusing_probabilities)
_as_logits = functools.lru_cache(maxsize=256)(score.logits_of_probabilities)


@functools.lru_cache(maxsize=256)
def _of_output(target, regression):
    return functools.lru_cache(maxsize=256)(
        functools.partial(score.one_output, target=target, regression=regression)
    )


def _conversions(output: str, target: int | None, batched: bool) -> list[Callable]:
    """What makes the model that was given one of a single input and its logits."""
    steps = [_one_by_one] if batched else []
    if output == "probabilities":
        steps.append(_as_logits)
    if output == "auto" and target is not None:  # what follows hides them
        steps.append(_refusing)
    if output == "regression" or target is not None:
        target = None if target is None else int(target)
        steps.append(_of_output(target, output == "regression"))
    return steps


@functools.lru_cache(maxsize=256)
def _smoothed(convert, smoothed):
    if smoothed is None:
        return None
    return lambda rho: convert(smoothed(rho))


def _texts(what: str, given: Any, count: int | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    unordered = isinstance(given, str | Set | Mapping)
    listed = isinstance(given, Iterable) and not unordered
    texts = tuple(given) if listed else ()
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{what} must be a sequence of texts, got {given!r}")
    if not all(map(str.strip, texts)):
        raise ValueError(f"{what} must not be empty, got {texts}")
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if twice:
        raise ValueError(f"{what} must differ, got {twice[0]!r} twice")
    if count is not None and len(texts) != count:
        raise ValueError(
            f"{what} must be as many as the features, {count}, got {len(texts)}"
        )
    return texts


def _groups(groups: Any, count: int | None) -> tuple[tuple[int, ...], ...]:
    if isinstance(groups, str) or not isinstance(groups, Iterable):
        raise ValueError(f"groups must be a sequence of one-hot groups, got {groups!r}")
    members = tuple(
        feature_indices(f"groups[{i}]", group, count) for i, group in enumerate(groups)
    )
    flat = [i for group in members for i in group]
    if () in members or len(flat) != len(set(flat)):
        raise ValueError(
            f"groups must be one-hot groups that do not overlap, got {members}"
        )
    return members


make_callable(__name__)
