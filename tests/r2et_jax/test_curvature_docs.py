"""The examples in the docstrings run."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["products", "norms", "lanczos", "logit_space"])
def test_docstring_examples_run(name):
    module = importlib.import_module(f"r2et_jax.curvature.{name}")
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
