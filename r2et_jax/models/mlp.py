"""Multilayer perceptrons for tabular data."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn

from r2et_jax.models.activations import activation, surrogate_name


class MLP(nn.Module):
    """n → hidden layers → C logits, with one activation throughout.

    `model.apply(params, x)` takes one input [n] (or a batch [..., n]) to logits
    [..., C].

    Attributes:
      hidden: widths of the hidden layers; the published model has one of 32.
      num_outputs: C; 1 is a binary model with one logit.
      activation: name of the activation, see `models.activations`.
      rho: sharpness of the softplus forms.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = MLP()
      >>> params = model.init(jax.random.key(0), jnp.zeros(28))
      >>> model.apply(params, jnp.zeros(28)).shape
      (1,)

    Source: R2ET (arXiv 2212.14106), appendix on models.
    """

    hidden: Sequence[int] = (32,)
    num_outputs: int = 1
    activation: str = "leaky_relu"
    rho: float = 5.0

    @nn.compact
    def __call__(self, x):
        act = activation(self.activation, rho=self.rho)
        for width in self.hidden:
            x = act(nn.Dense(width)(x))
        return nn.Dense(self.num_outputs)(x)

    def surrogate(self, *, rho: float) -> MLP:
        """The model with the smooth stand-in of a piecewise-linear activation.

        A model that is smooth already is returned as it is.
        """
        name = surrogate_name(self.activation)
        if name == self.activation:
            return self
        return self.clone(activation=name, rho=rho)


class SkipMLP(MLP):
    """z = aᵀx + MLP(x), with a zero at the start: the linear part has no curvature.

    Attributes as in `MLP`; each of the C logits has its own a.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = SkipMLP(activation="softplus")
      >>> params = model.init(jax.random.key(0), jnp.zeros(28))
      >>> sorted(params["params"])
      ['Dense_0', 'Dense_1', 'skip']
    """

    @nn.compact
    def __call__(self, x):
        skip = nn.Dense(
            self.num_outputs,
            use_bias=False,
            kernel_init=nn.initializers.zeros_init(),
            name="skip",
        )
        return super().__call__(x) + skip(x)


class Linear(nn.Module):
    """Logistic regression: n → C logits."""

    num_outputs: int = 1

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_outputs)(x)

    def surrogate(self, *, rho: float) -> Linear:
        """A linear model is smooth: itself."""
        del rho
        return self
