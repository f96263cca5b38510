"""Modules that are called as the function of their own name.

`r2et_jax.audit` and `r2et_jax.subject` are modules, and the functions that they are
about have the same names. Importing a module sets it as an attribute of its package, so
that a function of that name would stand there until the first import and be gone after
it. A module that can be called is both, in whatever order things are imported.
"""

from __future__ import annotations

import inspect
import sys
import types
from typing import Any


class CallableModule(types.ModuleType):
    """A module whose call is that of the function in it that bears its name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _namesake(self)(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(_namesake(self))


def _namesake(module: types.ModuleType) -> Any:
    return vars(module)[module.__name__.rpartition(".")[2]]


def make_callable(name: str) -> None:
    """Let the imported module of that full name be called as its namesake.

    Example:
      >>> import r2et_jax.subject
      >>> callable(r2et_jax.subject)
      True
    """
    sys.modules[name].__class__ = CallableModule
