"""Multilayer perceptrons for tabular data."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from r2et_jax.models.activations import activation, surrogate_name
from r2et_jax.models.initial import Module
from r2et_jax.models.lines import slope_lines
from r2et_jax.models.slopes import OneHiddenLayer, slope_range
from r2et_jax.types import Params


class MLP(Module):
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

    def layers(self, params: Params) -> OneHiddenLayer:
        """The weights of a network with one hidden layer (or none) and one logit.

        What bounds of its gradient need; `apply` is not called.

        Raises:
          ValueError: for another number of hidden layers or of logits.

        Example:
          >>> import jax, jax.numpy as jnp
          >>> model = MLP()
          >>> net = model.layers(model.init(jax.random.key(0), jnp.zeros(28)))
          >>> net.weight.shape, net.out.shape, net.skip.shape
          ((28, 32), (32,), (28,))
        """
        if len(self.hidden) > 1 or self.num_outputs != 1:
            raise ValueError(
                "layers needs a network with at most one hidden layer and one logit, "
                f"got hidden = {tuple(self.hidden)} and num_outputs = "
                f"{self.num_outputs}"
            )
        if not self.hidden:
            return _affine(params["params"]["Dense_0"]["kernel"])
        first, second = (params["params"][name] for name in ("Dense_0", "Dense_1"))
        return OneHiddenLayer(
            first["kernel"],
            first["bias"],
            second["kernel"][:, 0],
            jnp.zeros_like(first["kernel"][:, 0]),
            slope_range(self.activation, rho=self.rho),
            slope_lines(self.activation, rho=self.rho),
        )


def _affine(kernel) -> OneHiddenLayer:
    """An affine model with one logit: no hidden unit, the kernel [n, 1] as the skip."""
    none = jnp.zeros((0,), kernel.dtype)
    weight = jnp.zeros((kernel.shape[0], 0), kernel.dtype)
    return OneHiddenLayer(weight, none, none, kernel[:, 0], slope_range("relu"))


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

    def layers(self, params: Params) -> OneHiddenLayer:
        """The weights of a network with at most one hidden layer, and its skip."""
        network = super().layers(params)
        return network._replace(
            skip=network.skip + params["params"]["skip"]["kernel"][:, 0]
        )


class Linear(Module):
    """Logistic regression: n → C logits.

    Attributes:
      num_outputs: C; 1 for two classes.
    """

    num_outputs: int = 1

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_outputs)(x)

    def surrogate(self, *, rho: float) -> Linear:
        """A linear model is smooth: itself."""
        del rho
        return self

    def layers(self, params: Params) -> OneHiddenLayer:
        """The weights of a model with one logit, see `MLP.layers`."""
        if self.num_outputs != 1:
            raise ValueError(
                f"layers needs one logit, got num_outputs = {self.num_outputs}"
            )
        return _affine(params["params"]["Dense_0"]["kernel"])
