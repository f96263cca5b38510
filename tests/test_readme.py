"""The README's examples run as they stand, in order."""

import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.mark.standard_promotion
def test_the_examples_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 3
    names = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)  # noqa: S102
    report, state = names["report"], names["state"]
    assert capsys.readouterr().out.startswith("P@8 ")
    assert report.precision.shape == (20,)
    # What is kept of the top set, feature by feature, is what P@k counts.
    np.testing.assert_allclose(report.kept.mean(axis=1), report.precision, atol=1e-6)
    assert int(state.epoch) == 5
    expected = names["model"].apply(state.params, names["data"].test.x[0])
    np.testing.assert_array_equal(names["logits"], expected)


def test_the_modules_in_the_map_exist():
    root = README.parent
    text = README.read_text("utf-8")
    for name in re.findall(r"`r2et_jax\.(\w+)`", text):
        path = root / "r2et_jax" / name
        assert path.is_dir() or path.with_suffix(".py").is_file(), name
    for name in re.findall(r"python -m ((?:experiments|data_prep)\.\w+)", text):
        assert (root / f"{name.replace('.', '/')}.py").is_file(), name
