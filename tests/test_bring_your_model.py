"""The snippets of docs/bring_your_model.md run, where their library is installed."""

import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import r2et_jax as r2

os.environ.setdefault("KERAS_BACKEND", "jax")

PAGE = Path(__file__).resolve().parents[1] / "docs" / "bring_your_model.md"
SHARED = "What the examples share"
# Heading -> what the snippet needs.
NEEDS = {
    "A function": (),
    "Flax Linen": (),
    "Flax NNX": (),
    "Equinox": ("equinox",),
    "Keras": ("keras",),
    "PyTorch": ("torch", "torchax"),
    "Hugging Face": ("torch", "torchax", "transformers"),
    "scikit-learn": (),
    "Black boxes": (),
    "Quantus": ("torch", "quantus"),
}


def sections() -> dict[str, str]:
    """Heading -> its Python."""
    parts = re.split(r"^## (.+)$", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    blocks = {
        heading: "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
        for heading, text in zip(parts[1::2], parts[2::2], strict=True)
    }
    return {heading: code for heading, code in blocks.items() if code}


def test_every_snippet_is_run():
    assert set(sections()) == {SHARED, *NEEDS}
    text = PAGE.read_text("utf-8")
    for name in r2.adapters.__all__:
        assert f"adapters.{name}(" in text, name


@pytest.mark.parametrize("heading", NEEDS)
def test_the_snippet_makes_a_subject(heading):
    for library in NEEDS[heading]:
        pytest.importorskip(library, reason=f"{library} is not installed")
    names = {}
    for part in (SHARED, heading):
        exec(compile(sections()[part], f"{PAGE}: {part}", "exec"), names)
    subject, x = names["subject"], names["x"]
    x = names.get("embeddings", x)[:2]
    maps = r2.explain(subject, x)
    assert maps.shape == x.shape and np.isfinite(maps).all()
    sums = maps.reshape(len(x), -1).sum(axis=1)
    np.testing.assert_allclose(sums, 1, rtol=1e-5)
    assert jax.vmap(subject.apply, (None, 0))(subject.params, x).ndim == 2
