"""The other way round: a subject for Quantus, whose metrics take PyTorch's models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from r2et_jax.execution import compile_chunked, kept
from r2et_jax.subject import Form, Subject, explain

_IN_CACHE = 1024


class ForQuantus(NamedTuple):
    """What Quantus' metrics are called with.

    Attributes:
      model: a `torch.nn.Module` in eval mode that predicts by the subject.
      explain_func: `explain_func(model, inputs, targets, **kwargs) -> maps`, the
        subject's explanations as NumPy arrays.
    """

    model: Any
    explain_func: Callable[..., np.ndarray]


def quantus(subject: Subject) -> ForQuantus:
    """A subject as the model and the function that Quantus' metrics take.

    The model passes NumPy arrays to JAX and back: it predicts, and has no gradients or
    layers of PyTorch. So metrics that change inputs run (robustness, faithfulness,
    complexity, localisation), those that change layers (randomisation) do not, and are
    refused. Its outputs are logits; one logit z becomes two, −z/2 and z/2.

    Args:
      subject: the model, with its explainer, and without a context.

    Returns:
      `ForQuantus`: `metric(model=made.model, x_batch=x, y_batch=y, a_batch=None,
      explain_func=made.explain_func)`. Inputs with one channel [m, 1, ...] are given
      to the subject in its own shape, which it says as `subject(..., shape=(n,))`: some
      metrics take tables as [m, 1, n] alone.

    Raises:
      ValueError: for no subject, one with a context, PyTorch that is not installed;
        when called, for images of several channels and a subject of flat ones, whose
        order is another, and for a model that is another one.

    Example:
      >>> import quantus as quantus_lib  # doctest: +SKIP
      >>> made = quantus(examined)  # doctest: +SKIP
      >>> metric = quantus_lib.MaxSensitivity(nr_samples=10)  # doctest: +SKIP
      >>> scores = metric(made.model, x, y, explain_func=made.explain_func)
      ... # doctest: +SKIP

    Source: Hedström et al. 2023, "Quantus: an explainable AI toolkit".
    """
    if not isinstance(subject, Subject):
        raise ValueError(
            f"quantus takes a subject, such as subject(model, params), got a "
            f"{type(subject).__name__}"
        )
    if subject.context is not None:
        raise ValueError(
            "Quantus gives inputs alone: a subject with a context for each input has "
            "no model of them, got one with a context"
        )
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            "adapters.quantus needs PyTorch, which Quantus takes models of: "
            "pip install 'r2et-jax[compare]'"
        ) from error

    class Predicting(torch.nn.Module):
        """The subject's logits of a batch, by JAX."""

        def forward(self, x):
            inputs = _own_shape(subject, x.detach().cpu().numpy())
            logits = _predicting(subject.form)(subject.params, inputs)
            if logits.shape[1] == 1:
                logits = np.concatenate([-logits / 2, logits / 2], axis=1)
            return torch.from_numpy(np.ascontiguousarray(logits))

        def __deepcopy__(self, memo):
            # What changes layers copies the model first, and would find none to change.
            raise ValueError(
                "a subject has no layers of PyTorch: metrics that randomise or shift "
                "them need a model of PyTorch's"
            )

    predicting = Predicting().eval()

    def explain_func(
        model: Any, inputs: Any, targets: Any = None, **kwargs: Any
    ) -> np.ndarray:
        """The subject's maps, in the shape of the inputs where they have their size.

        Args:
          model: the one made here.
          inputs: a batch [m, ...].
          targets: the class that is explained of each input [m]; by default the
            predicted one.
          **kwargs: what Quantus passes beside, such as a device; not used.
        """
        del kwargs
        if model is not predicting:
            raise ValueError(
                "explain_func explains the model that was made with it, got another "
                f"{type(model).__name__}"
            )
        inputs = np.asarray(inputs)
        targets = None if targets is None else np.asarray(targets)
        maps = explain(subject, _own_shape(subject, inputs), targets)
        return _like(maps, inputs.shape)

    return ForQuantus(predicting, explain_func)


def _own_shape(subject: Subject, x: np.ndarray) -> np.ndarray:
    """Inputs of Quantus' shape in that of the subject."""
    shape = x.shape[1:] if subject.shape is None else subject.shape
    if x.shape[1:] == shape:
        return x
    if x.ndim == 4 and x.shape[1] > 1:
        raise ValueError(
            f"Quantus' images [{x.shape[1]}, height, width] have their channels first, "
            f"and the subject's inputs the shape {shape}: give a subject of the former"
        )
    return x.reshape(len(x), *shape)


def _like(maps: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Maps in the shape of the inputs; of an image's pixels, with one channel."""
    if maps.size == np.prod(shape):
        return maps.reshape(shape)
    if len(shape) == 4 and maps.size == shape[0] * shape[2] * shape[3]:
        return maps.reshape(shape[0], 1, *shape[2:])
    return maps


@kept
def _predicting(form: Form):
    def chunk(params, x):
        return jax.vmap(form.apply, (None, 0))(params, x)

    return compile_chunked(chunk, in_cache=_IN_CACHE)
