"""A model of pairs: are two inputs of the same class?"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from r2et_jax.models.initial import Module
from r2et_jax.numerics import unit_l2
from r2et_jax.types import ApplyFn, Array, Params


class Siamese(Module):
    """Logit of Pr[same class] = σ(a·cos(e(x) − c, e(x′) − c) + b) of a pair.

    e is the encoder, a and b are learnt, and c is the mean embedding of the training
    inputs where `centered` asks for it, else 0. The pair's order does not matter. A
    zero embedding has the cosine 0 with any other and finite derivatives.

    `model.apply(params, pair)` takes one pair [2, ...] to one logit [1]. Other methods
    (`model.apply(params, x, method="classify")`):
      embed(x): e(x) − c, [d].
      compare(first, second): the logit [1] of two embeddings [d].
      classify(x): logits [C] of a single input, linear in its embedding.

    Attributes:
      encoder: module that takes one input to an embedding [d].
      num_outputs: C of the classifier; 1 is a binary one with one logit.
      centered: subtract the mean embedding c. It is stored as the collection "center"
        beside "params", starts at zero, is set by `recenter`, and has no gradient.
      scale: initial a. The cosine alone would bound the logit by 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from r2et_jax.models import MLP
      >>> model = Siamese(MLP(hidden=(6,), num_outputs=4))
      >>> pair = jnp.arange(10.0).reshape(2, 5)
      >>> params = model.init(jax.random.key(0), pair)
      >>> model.apply(params, pair).shape
      (1,)

    Source: R2ET (arXiv 2212.14106), appendix on models.
    """

    encoder: nn.Module
    num_outputs: int = 1
    centered: bool = False
    scale: float = 5.0

    def setup(self):
        scale, bias = nn.initializers.constant(self.scale), nn.initializers.zeros_init()
        self.head_scale = self.param("scale", scale, (1,), jnp.float32)
        self.head_bias = self.param("bias", bias, (1,), jnp.float32)
        self.classifier = nn.Dense(self.num_outputs)

    @nn.compact
    def embed(self, x):
        embedding = self.encoder(x)
        if self.centered:
            mean = self.variable("center", "mean", jnp.zeros_like, embedding)
            embedding = embedding - jax.lax.stop_gradient(mean.value)
        return embedding

    def compare(self, first, second):
        cosine = jnp.sum(unit_l2(first) * unit_l2(second))
        return self.head_scale * cosine + self.head_bias

    def classify(self, x):
        return self.classifier(self.embed(x))

    def __call__(self, pair):
        if pair.shape[0] != 2:
            raise ValueError(
                f"a pair has the shape [2, ...], got {pair.shape}; batch with jax.vmap"
            )
        first, second = self.embed(pair[0]), self.embed(pair[1])
        if self.is_initializing():
            self.classifier(first)  # its parameters exist from the start
        return self.compare(first, second)

    def surrogate(self, *, rho: float) -> Siamese:
        """The model with the encoder's surrogate; itself if the encoder is smooth."""
        encoder = self.encoder.surrogate(rho=rho)
        return self if encoder is self.encoder else self.clone(encoder=encoder)


def pair_apply(model: Siamese, *, embedded: bool = False) -> ApplyFn:
    """The pair's logit as a function of its **first** input, the explained one.

    The other input is context and travels with the parameters: scores, explanations,
    attacks and losses see a model of one input, differentiate that one alone, and a
    batch of pairs is mapped with `jax.vmap(apply, ((None, 0), 0))`.

    Args:
      model: the model of pairs.
      embedded: whether the partner is given as its embedding, from
        `model.apply(params, partner, method="embed")`. It does not change while the
        first input is attacked, and need not be computed again at each step.

    Returns:
      `apply((params, partner), x) -> logits [1]`.

    Example:
      >>> from r2et_jax.models import MLP
      >>> model = Siamese(MLP(hidden=(6,), num_outputs=4))
      >>> pairs = jnp.arange(30.0).reshape(3, 2, 5)
      >>> params = model.init(jax.random.key(0), pairs[0])
      >>> apply = jax.vmap(pair_apply(model), ((None, 0), 0))
      >>> apply((params, pairs[:, 1]), pairs[:, 0]).shape
      (3, 1)
    """

    def apply(context, x, /):
        params, partner = context
        if not embedded:
            return model.apply(params, jnp.stack([x, partner]))
        first = model.apply(params, x, method="embed")
        return model.apply(params, first, partner, method="compare")

    return apply


def pair_split(model: Siamese) -> tuple[ApplyFn, ApplyFn]:
    """`pair_apply` in two parts: the first input's embedding, and its comparison.

    With an encoder of ReLU and max pooling the first part is piecewise linear.

    Args:
      model: the model of pairs.

    Returns:
      `inner((params, partner), x) -> e [d]` and `outer((params, partner), e) ->
      logits [1]`.
    """

    def inner(context, x, /):
        params, _ = context
        return model.apply(params, x, method="embed")

    def outer(context, first, /):
        params, partner = context
        second = model.apply(params, partner, method="embed")
        return model.apply(params, first, second, method="compare")

    return inner, outer


def class_apply(model: Siamese) -> ApplyFn:
    """The classifier of single inputs, `apply(params, x) -> logits [C]`."""

    def apply(params, x, /):
        return model.apply(params, x, method="classify")

    return apply


def recenter(model: Siamese, params: Params, x: Array) -> Params:
    """Parameters whose centre is the mean embedding of the inputs.

    Mean-pooled embeddings of graphs are nearly parallel: without a centre all their
    cosines are close to 1. The centre ages as the encoder is trained: set it again
    after each epoch, from training inputs alone.

    Args:
      model: a model with `centered=True`.
      params: what its `init` returned, trained or not.
      x: inputs [m, ...].

    Returns:
      A copy of `params` with the new centre.

    Raises:
      ValueError: if the model is not centred.
    """
    if not model.centered:
        raise ValueError("recenter needs a model with centered=True, got False")
    center = params["center"]["mean"]
    shifted = jax.vmap(lambda example: model.apply(params, example, method="embed"))(x)
    return {**params, "center": {"mean": center + jnp.mean(shifted, axis=0)}}
