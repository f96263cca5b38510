"""An audit and `experiments.robustness` say the same of the same model and inputs."""

import jax
import numpy as np

import r2et_jax as r2
from experiments.measures.evaluation import PER_INPUT, Evaluator
from r2et_jax import datasets, models, saved

K, EVALUATIONS, COUNT = 8, 1000, 12


def test_the_audits_precision_is_that_of_the_records(tmp_path):
    """The same evaluations and key, at both ε: equal at every input."""
    data = datasets.breast_cancer()
    model = models.MLP(activation="leaky_relu")
    params = model.init(jax.random.key(3), data.train.x[0])
    saved.save(tmp_path / "model", model, params)
    evaluator = Evaluator(
        data, model, k=K, num_test=COUNT, strongest_evaluations=EVALUATIONS
    )
    model, params, _ = saved.load(tmp_path / "model")
    report = r2.audit(model, params, data.test.x[:COUNT], k=K, epsilons=(0.5,),
                      evaluations=EVALUATIONS)  # fmt: skip
    lowest = np.ones(COUNT)
    for i, epsilon in enumerate(report.epsilons):
        records = evaluator.attacked(params, "strongest", float(epsilon))
        recorded = {record["metric"]: record for record in records}
        # In a curve what a smaller budget found counts under a larger one.
        lowest = np.fmin(lowest, recorded[PER_INPUT]["values"])
        np.testing.assert_array_equal(report.curve[i], lowest)
        if not i:
            assert lowest.min() < 1  # there is something to agree on
            assert recorded["p@k"]["value"] == report.curve[i].mean()
            same_class = report.curve_same_class[i].mean()
            assert recorded["p@k_same_class"]["value"] == same_class
