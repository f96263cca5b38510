"""PyTorch modules, Hugging Face's among them, through torchax."""

from __future__ import annotations

import copy
from typing import Any

import jax
import numpy as np

from r2et_jax.adapters.program import Fixed, Program, examined, some_inputs
from r2et_jax.checks import check_adapter
from r2et_jax.subject import Subject
from r2et_jax.types import Array

# The name of the module inside of the one that gives it its arguments.
_INNER = "inner."


def torch(
    module: Any,
    x: Array | None = None,
    *,
    argument: str | None = None,
    call: dict[str, Any] | None = None,
    **options: Any,
) -> Subject:
    """A PyTorch module as a subject: a copy of it in eval mode, run by JAX.

    torchax runs the module's own Python code on JAX arrays. Its parameters are the
    subject's, under their names in the module, and go back by `load_state_dict`; its
    buffers are fixed. Outputs of Hugging Face models are their `logits`. Make the
    subject once: each call of this makes a program of its own.

    Args:
      module: takes batches [m, ...] to [m, C] or [m]; it is not changed.
      x: some inputs [m, ...], on which both are compared. Tokens have no gradient: of a
        language model x are embeddings [m, T, E].
      argument: name of the argument that x is given to, such as "inputs_embeds"; by
        default the first.
      call: other arguments of the call, such as `{"return_dict": True}`, the same for
        all inputs.
      **options: of `r2et_jax.subject`: names, groups, classes, output, explainer …

    Returns:
      `Subject`.

    Raises:
      ValueError: for another model or a class, floats that are not of 32 bits,
        torchax that is not installed or does not fit, an input that the module does
        not take to [C], and outputs other than PyTorch's.

    Example:
      >>> import r2et_jax as r2
      >>> examined = r2.adapters.torch(module, x)  # doctest: +SKIP
      >>> print(r2.audit(examined, x, k=8))  # doctest: +SKIP
    """
    check_adapter("torch", module)
    torch, torchax = _libraries()

    class Called(torch.nn.Module):
        """The module with its arguments, and the array of its output."""

        def __init__(self):
            super().__init__()
            self.inner = copy.deepcopy(module)

        def forward(self, x):
            given = dict(call or {})
            if argument is None:
                out = self.inner(x, **given)
            else:
                out = self.inner(**{argument: x}, **given)
            return getattr(out, "logits", out)

    called = Called().eval().requires_grad_(False)
    floats = [t for t in called.state_dict().values() if t.is_floating_point()]
    others = {str(t.dtype) for t in floats} - {"torch.float32"}
    if others:
        raise ValueError(
            f"the module must hold 32-bit floats, got {', '.join(sorted(others))}: "
            "pass module.float()"
        )
    states, run = torchax.extract_jax(called)
    names = {name for name, _ in called.named_parameters()}
    fixed = {name: leaf for name, leaf in states.items() if name not in names}
    params = {name.removeprefix(_INNER): states[name] for name in names}

    def original(x):
        with torch.no_grad():
            return called(torch.from_numpy(np.asarray(x))).numpy()

    program = Program(_predict, run, Fixed(fixed), True)
    x = None if x is None else some_inputs(x)
    return examined(program, params, x, original, **options)


def _libraries() -> tuple[Any, Any]:
    import torch

    try:
        import torchax
    except Exception as error:
        raise ValueError(
            "adapters.torch needs torchax (pip install 'r2et-jax[torch]'), whose "
            f"import with torch {torch.__version__} gives {type(error).__name__}: "
            f"{error}"
        ) from error
    return torch, torchax


def _predict(run, fixed, params, inputs):
    # Functions in place of jax.Array's methods: some of torchax mix dtypes.
    with jax.numpy_dtype_promotion("standard"):
        held = {f"{_INNER}{name}": leaf for name, leaf in params.items()}
        return run({**fixed, **held}, (inputs,))
