"""Models that are kept: what a kill has left beside them."""

import numpy as np

from experiments.models import fitting
from r2et_jax import training
from r2et_jax.training.checkpoint import save_model


def test_checkpoints_of_a_model_that_is_there_are_removed(tmp_path):
    """A kill between the model and their removal leaves them."""
    folder, config = tmp_path / "model", {"method": "vanilla"}
    save_model(folder, {"w": np.arange(3.0)}, {"config": config})
    checkpoints = training.Checkpoints(folder / "training", config=config)
    checkpoints.save(1, {"w": np.zeros(2)})
    fitter = object.__new__(fitting.Fitter)  # needs none of its data here
    params, description = fitter._kept_or_fitted(folder, None, config)
    assert params["w"].tolist() == [0, 1, 2] and description["config"] == config
    assert not (folder / "training").exists()
