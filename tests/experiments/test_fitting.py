"""What the fitting of a method says of training that is lost."""

from experiments.models import fitting
from experiments.problems import protocols
from r2et_jax import datasets

CHANGES = {
    "pretrain_epochs": 2, "epochs": 2, "eval_every": 1, "num_valid": 8,
    "grid": {"decay": (0.1, 1e30)},
}  # fmt: skip


def test_models_that_diverge_are_counted_in_words_and_not_chosen(tmp_path, capfd):
    """A decay of 1e30 times the weights loses every seed that it is given to."""
    fitter = fitting.Fitter(
        datasets.breast_cancer(),
        seeds=(0, 4),
        protocol=protocols.PRESETS["smoke"]._replace(**CHANGES),
        k=8,
        models_dir=tmp_path,
        progress=False,
    )
    choices = fitter.fit("wd_decoupled").choices
    said = capfd.readouterr().err
    assert said.count("training met NaN or infinity") == 1
    assert "breast_cancer wd_decoupled: training met NaN or infinity in 2 of 4" in said
    for row in choices:
        for choice in row:
            assert choice["weights"].get("decay", 0.1) == 0.1
    fitter.fit("vanilla")
    assert capfd.readouterr().err == ""
