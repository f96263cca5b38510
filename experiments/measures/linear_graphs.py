"""The linear baseline of graphs: logistic regression on the weights of their edges."""

from __future__ import annotations

import numpy as np

from r2et_jax import datasets, metrics


def linear_graph_auc(dataset: datasets.PairDataset) -> tuple[float, float]:
    """Test AUC of pairs and of single graphs, by class probabilities p of one graph.

    Pr[same class] = Σ_c p_c p′_c. Fitted on the training graphs, each once, with
    standardised edges.

    Args:
      dataset: pairs of graphs.

    Returns:
      AUC of the test pairs, and of the graphs that are first in one of them: of more
      than two classes the mean over each against the others.
    """
    # Imported where it is needed: slow to import, and most experiments have no graphs.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = dataset.train, dataset.test
    seen = np.unique([train.first, train.second])
    fit = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    fit.fit(train.inputs[seen], train.labels[seen])
    p, partner = (fit.predict_proba(inputs) for inputs in (test.x, test.partner))
    _, once = np.unique(test.first, return_index=True)
    single = fit.decision_function(test.x[once])
    pairs = metrics.roc_auc(test.y, np.sum(p * partner, axis=1))
    return float(pairs), float(metrics.roc_auc(test.label_x[once], single))
