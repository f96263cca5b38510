"""Pairs of images and graphs through training, selection, attacks and tables."""

import dataclasses
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.console import cli
from experiments.loop import parts
from experiments.models import candidates, fitting
from experiments.problems import pairs as pair_problem
from experiments.problems import presets, protocols, registry, views
from experiments.store import records
from r2et_jax import datasets, models, objectives, saliency, score, threat

TINY = {
    "pretrain_epochs": 2, "epochs": 1, "eval_every": 1, "learning_rate": 5e-3,
    "num_valid": 4, "num_test": 6, "num_train": 320,
}  # fmt: skip
ARGUMENTS = (
    "--preset=smoke", "--noprogress", "--attacks=er_surrogate", "--seeds=0",
    "--datasets=digits,planted", "--methods=vanilla,r2et_nh",
)  # fmt: skip


@pytest.fixture(scope="module")
def robustness():
    return importlib.import_module("experiments.robustness.experiment")


def call(robustness, folder, *arguments):
    folders = f"--output_dir={folder}", f"--models_dir={folder / 'models'}"
    cli.call(robustness, *ARGUMENTS, *folders, *arguments)


@pytest.fixture(scope="module")
def planted():
    return registry.problem(datasets.load("planted"))


@pytest.fixture(scope="module")
def digits():
    return registry.problem(datasets.load("digits"))


def test_nodes_without_edges_are_left_out_under_attack_alone():
    model = models.Siamese(models.GCN(6, hidden=(4, 3), max_connected=3), centered=True)
    x = jnp.zeros(15).at[jnp.array([0, 1, 5])].set(jnp.array([1.0, 0.5, 2.0]))
    params = model.init(jax.random.key(0), jnp.stack([x, 2 * x]))
    context = params, model.apply(params, 2 * x, method="embed")
    anywhere, within = views.GRAPH.apply(model), views.GRAPH.attacked(model).apply
    np.testing.assert_allclose(anywhere(context, x), within(context, x), rtol=1e-5)
    # Every edge is there: too many for a model that leaves nodes out.
    assert np.isfinite(anywhere(context, x + 0.1)).all()
    assert np.isnan(within(context, x + 0.1)).all()
    noisy = dataclasses.replace(views.GRAPH, explainer=saliency.gradient)
    assert np.isfinite(noisy.attacked(model).apply(context, x + 0.1)).all()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, robustness):
    """The folder of a run of two kinds of pairs."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("image", "graph"):
            patch.setitem(presets.CHANGES, ("smoke", kind), TINY)
        # Compiles in a fraction of the time; er_surrogate is measured below.
        patch.setattr(candidates, "_ATTACK", "random")
        patch.delenv("R2ET_DEBUG", raising=False)
        folder = tmp_path_factory.mktemp("pairs")
        call(robustness, folder)
    return folder


@pytest.mark.slow
def test_each_data_set_has_its_own_size_budget_and_guards(finished):
    store = records.RecordStore(finished / "records.jsonl")
    expected = {
        "digits": (8, [0.1, 0.2], "siamese_mlp", {"bg", "same", "null"}),
        "planted": (10, [0.01, 0.02], "siamese_gcn", {"same", "null", "train_auc"}),
    }
    for dataset, (k, budgets, model, guards) in expected.items():
        for method in ("vanilla", "r2et_nh"):
            recorded = store.select(
                dataset=dataset, method=method, tolerance=0.01, attack="er_surrogate"
            )
            main = [r for r in recorded if r["metric"] == "p@k"]
            assert [r["epsilon"] for r in main] == budgets
            assert {(r["k"], r["model"], r["fold"], r["n"]) for r in main} == {
                (k, model, 0, 6)
            }
            assert all(0 <= r["value"] < 1 for r in main)
            (cauc,) = (
                r
                for r in recorded
                if r["metric"] == "cauc" and r["epsilon"] == budgets[1]
            )
            assert 0 <= cauc["value"] <= 1
            clean = store.select(dataset=dataset, method=method, attack="none")
            names = {r["metric"] for r in clean}
            assert guards <= names and "linear_r2" not in names
            assert ("bg" in names) == (dataset == "digits")
            for record in clean:
                if record["metric"] in guards:
                    assert 0 <= record["value"] <= 1
            noise = store.select(dataset=dataset, method=method, attack="noise")
            assert all(r["value"] > 0.95 for r in noise)
    config = json.loads((finished / "config.json").read_text())
    assert config["flags"]["by_dataset"]["planted"]["k"] == [10]
    assert not {"folds", "pooling"} & config["flags"].keys()  # as they were not given
    assert config["flags"]["reference_methods"] == []  # pairs have no categories


@pytest.mark.slow
def test_reports_stand_apart_and_together(finished):
    names = {path.name for path in finished.iterdir()}
    for part in ("digits", "planted"):
        assert {f"table_{part}.md", f"table_{part}.csv", f"notes_{part}.md"} <= names
    text = (finished / "table.md").read_text()
    assert "l2 budget ε = 0.2 on pixels" in text
    assert "linf budget ε = 0.02 on the weights of edges" in text
    assert "R² lin" not in text and "bg" in (finished / "table_digits.md").read_text()
    assert "bg" not in (finished / "table_planted.csv").read_text()


@pytest.mark.slow
def test_a_second_run_changes_nothing(finished, robustness, monkeypatch):
    def train(*arguments, **keywords):
        raise AssertionError("trained again")

    for kind in ("image", "graph"):
        monkeypatch.setitem(presets.CHANGES, ("smoke", kind), TINY)
    monkeypatch.setattr(fitting.Fitter, "_fit_network", train)
    before = (finished / "records.jsonl").read_bytes()
    call(robustness, finished)
    assert (finished / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize("method", ["logistic", "skip", "wd+cert_rank"])
def test_methods_of_tables_are_refused(digits, method):
    with pytest.raises(ValueError, match=r"is for tabular data: digits holds pairs"):
        digits.model(method)


def test_an_unsuitable_method_ends_before_any_work(robustness, tmp_path, capsys):
    with pytest.raises(SystemExit):
        call(robustness, tmp_path, "--methods=cert_rank", "--datasets=planted")
    assert "cert_rank is for tabular data" in capsys.readouterr().err
    assert not (tmp_path / "config.json").exists()


def test_a_graph_is_trained_by_the_gradient_times_input_that_is_explained(planted):
    """∇_f of the logit at x ⊙ f, f = 1, is g ⊙ x, the map that attacks change."""
    model = planted.model("sp")
    params = jax.jit(model.init)(jax.random.key(0), planted.sample)
    (factors, (partners, x)), _ = planted.training(3)
    assert np.all(np.asarray(factors) == 1)
    scaled = pair_problem._in_factors(model)
    slope = jax.jit(
        jax.grad(lambda f, partner, x: scaled((params, (partner, x)), f)[0])
    )
    apply = models.pair_apply(model)
    explain = jax.jit(
        saliency.gradient_times_input(score.log_odds(apply), normalize=False)
    )
    assert planted.view.explainer is saliency.gradient_times_input
    for i in range(3):
        np.testing.assert_allclose(
            np.abs(slope(factors[i], partners[i], x[i])),
            explain((params, partners[i]), x[i], 1),
            rtol=1e-4,
            atol=1e-6,
        )


def test_the_loss_of_vanilla_is_the_cross_entropy_of_the_pairs(planted, digits):
    for problem in (planted, digits):
        model = problem.model("vanilla")
        params = jax.jit(model.init)(jax.random.key(1), problem.sample)
        x, y = problem.training(8)
        built = problem.objective("vanilla", model, k=problem.k)
        value = jax.jit(built.loss)(params, x, y, jnp.zeros(0))
        train = problem.dataset.train
        pairs = jnp.stack([train.x[:8], train.partner[:8]], axis=1)
        z = jax.jit(jax.vmap(model.apply, (None, 0)))(params, pairs)[:, 0]
        sign = np.where(train.y[:8] == 1, 1.0, -1.0)
        expected = np.mean(np.log1p(np.exp(-sign * np.asarray(z, np.float64))))
        np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_graphs_settle_at_the_mean_embedding_of_their_training_graphs(planted):
    model = planted.model("vanilla")
    init = jax.jit(jax.vmap(model.init, (0, None)))
    params = init(jax.random.split(jax.random.key(0), 2), planted.sample)
    settled = planted.settle(model, params)
    train = planted.dataset.train
    used = sorted({*train.first.tolist(), *train.second.tolist()})
    embed = jax.jit(
        jax.vmap(lambda leaves, x: model.apply(leaves, x, method="embed"), (None, 0))
    )
    for s in range(2):
        leaves = jax.tree.map(lambda leaf, s=s: leaf[s], settled)
        mean = np.mean(embed(leaves, jnp.asarray(train.inputs[used])), axis=0)
        np.testing.assert_allclose(mean, 0, atol=1e-4)
    # A grid of settings has one more axis.
    twice = jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], 3, axis=1), params)
    again = planted.settle(model, twice)
    np.testing.assert_allclose(
        again["center"]["mean"][:, 2], settled["center"]["mean"], rtol=1e-5, atol=1e-6
    )


def test_attacks_stay_among_legal_inputs_and_absent_edges_stay_absent(planted, digits):
    budget = digits.threat_model(0.1)
    assert budget.norm == "l2" and float(budget.upper[0]) == 1
    assert planted.threat_model(0.02).absent == "free"
    dataset = planted.dataset._replace(meta={**planted.dataset.meta, "sparse": True})
    budget = registry.problem(dataset).threat_model(0.02)
    assert (budget.norm, budget.absent) == ("linf", "frozen")


def test_whether_absent_edges_may_appear_is_a_choice(planted, digits, robustness):
    few = planted.dataset.train.inputs * (planted.dataset.edges.max(axis=1) < 4)
    splits = {
        name: getattr(planted.dataset, name)._replace(inputs=few)
        for name in ("train", "valid", "test")
    }
    meta = {**planted.dataset.meta, "sparse": True}
    sparse = planted.dataset._replace(meta=meta, **splits)
    kept, free = registry.problem(sparse), registry.problem(sparse, absent="free")
    assert kept.model("vanilla").encoder.max_connected == 4
    assert free.model("vanilla").encoder.max_connected is None
    # A model that was trained to leave nodes out, where new edges may join them.
    assert views.anywhere(kept.model("vanilla")) == free.model("vanilla")
    assert free.threat_model(0.02).absent == "free"
    x = jnp.asarray(few[0])
    for result, moved in ((kept, few[0] != 0), (free, few[0] == few[0])):
        drawn = threat.sample(result.threat_model(0.02), x, key=jax.random.key(0))
        assert np.array_equal(np.asarray(drawn) != few[0], moved)
    # Models of another rule are chosen under another attack: they stand apart.
    assert "absent" not in kept.config("wd")
    assert free.config("wd")["absent"] == "free"
    assert registry.problem(planted.dataset, absent="free").config("wd") == (
        planted.config("wd")
    )
    assert registry.problem(digits.dataset, absent="frozen").threat_model(
        0.1
    ).absent == ("free")
    for given, expected in (([], {}), (["--absent_edges=free"], {"absent": "free"})):
        values = robustness.FLAGS.define()
        values(["robustness", *given])
        assert parts.of_graphs(robustness.FLAGS.read(values)) == expected
    with pytest.raises(ValueError, match="absent edges"):
        registry.problem(planted.dataset, absent="never")


def test_folds_have_models_of_their_own(tmp_path):
    fitters = [
        fitting.Fitter(
            datasets.load("planted", fold=fold),
            seeds=(0,),
            protocol=protocols.protocol("smoke", "graph", 435),
            k=50,
            models_dir=tmp_path,
            progress=False,
        )
        for fold in (0, 1)
    ]
    folders, configs = zip(*(f._folder("vanilla") for f in fitters), strict=True)
    assert folders[0] != folders[1]
    assert [config["fold"] for config in configs] == [0, 1]


def test_weights_of_mean_gaps_grow_with_the_number_of_features():
    small, large = (protocols.protocol("standard", "image", n) for n in (64, 784))
    ratio = np.divide(large.grid["gap"], small.grid["gap"])
    np.testing.assert_allclose(ratio, 784 / 64, rtol=0.05)
    assert small.grid["curvature"] == large.grid["curvature"]
    terms = objectives.method("r2et").terms
    assert np.prod([len(small.paired[term]) for term in terms]) == 4
    assert {len(weights) for weights in small.grid.values()} == {4}
