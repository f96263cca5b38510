"""Models of pairs: trained and saved, attacked by their folders, under constraints."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.console import cli
from experiments.measures import evaluation
from experiments.models import candidates, fitting, trained
from experiments.problems import presets, registry
from experiments.store import records
from r2et_jax import datasets, metrics, models, saved
from r2et_jax.datasets.soundness import fingerprint
from r2et_jax.models.siamese import class_apply

# Networks of three kinds of data are compiled and trained.
pytestmark = pytest.mark.slow

TINY = {
    "pretrain_epochs": 2, "epochs": 1, "eval_every": 1, "learning_rate": 5e-3,
    "num_valid": 4, "num_test": 6, "num_train": 320,
}  # fmt: skip
ALWAYS = "--preset=smoke", "--noprogress"
# Data set -> its folder's name, k, budgets and norm.
SAVED = {
    "digits": ("digits-wd-seed0-tolerance0.01", 8, [0.1, 0.2], "l2"),
    "planted": ("planted-wd-seed0-tolerance0.01-fold1", 10, [0.01, 0.02], "linf"),
}


def call(name, *arguments):
    binary = importlib.import_module(f"experiments.{name}.experiment")
    cli.call(binary, *ALWAYS, *arguments)


@pytest.fixture(autouse=True, scope="module")
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("image", "graph"):
            patch.setitem(presets.CHANGES, ("smoke", kind), TINY)
        # Compiles in a fraction of the time.
        patch.setattr(candidates, "_ATTACK", "random")
        patch.delenv("R2ET_DEBUG", raising=False)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory, tiny):
    """The folder of a run of training, the graphs on their second fold."""
    folder = tmp_path_factory.mktemp("models_of_pairs")
    call(
        "train", "--datasets=digits,planted", "--methods=wd", "--fold=1",
        f"--output_dir={folder / 'train'}", f"--models_dir={folder / 'kept'}",
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def constrained(root):
    """The folder of constrained attacks on the images and on fold 0 of the graphs."""
    folder = root / "constrained"
    call(
        "constrained_attack", "--datasets=digits,planted", "--methods=vanilla",
        "--weightings=fixed", "--ranking_weights=.1", "--seeds=0",
        f"--output_dir={folder}", f"--models_dir={root / 'kept'}",
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("dataset", SAVED)
def test_a_saved_model_of_pairs_is_told_by_its_folder(root, dataset):
    name, k, _, norm = SAVED[dataset]
    model, params, told = saved.load(root / "train" / "models" / name)
    fold = int(dataset == "planted")
    data = datasets.load(dataset, fold=fold)
    assert isinstance(model, models.Siamese)
    assert model == registry.problem(data).model("wd")
    assert (told["k"], told["fold"], told["norm"]) == (k, fold, norm)
    assert told["data_sha256"] == fingerprint(data)
    assert told["split_sizes"]["test"] == len(data.test.first)
    assert "columns" not in told and told["shape"] == list(data.shape)
    pairs = np.stack([data.test.x, data.test.partner], axis=1)
    logits = jax.jit(jax.vmap(model.apply, (None, 0)))(params, pairs)
    auc = metrics.roc_auc(data.test.y, np.asarray(logits)[:, 0])
    store = records.RecordStore(root / "train" / "records.jsonl")
    (record,) = store.select(dataset=dataset, metric="auc", tolerance=0.01)
    assert record["value"] == told["auc"] == pytest.approx(auc, abs=1e-6)
    assert (record["k"], record["fold"]) == (k, fold)
    assert record["params_sha256"] == told["params_sha256"]
    assert record["n"] == len(data.test.y)
    flags = json.loads((root / "train" / "config.json").read_text())["flags"]
    assert flags["by_dataset"][dataset] == {"k": [k]} and flags["fold"] == 1


def test_saved_models_of_pairs_are_attacked_at_their_own_budgets(root, monkeypatch):
    folders = ",".join(str(root / "train" / "models" / s[0]) for s in SAVED.values())
    out = root / "attack"
    given = (
        f"--model={folders}", "--attacks=random", f"--output_dir={out}",
    )  # fmt: skip
    call("attack", *given)
    store = records.RecordStore(out / "records.jsonl")
    tests = records.RecordStore(root / "train" / "records.jsonl")
    for dataset, (_, k, budgets, _) in SAVED.items():
        for attack in ("random",):
            recorded = store.select(dataset=dataset, attack=attack, metric="p@k")
            assert [r["epsilon"] for r in recorded] == budgets
            for epsilon in budgets:
                cell = {"dataset": dataset, "attack": attack, "epsilon": epsilon}
                check_any_of_two(store, cell)
                check_any_of_two(store, cell, "_last")
            assert {(r["k"], r["fold"], r["n"], r["method"]) for r in recorded} == {
                (k, int(dataset == "planted"), 6, "wd")
            }
            assert all(0 <= r["value"] <= 1 for r in recorded)
        (trained_auc,) = tests.select(dataset=dataset, metric="auc", tolerance=0.01)
        (auc,) = store.select(dataset=dataset, metric="auc")
        assert auc["value"] == pytest.approx(trained_auc["value"], abs=1e-6)
        assert auc["params_sha256"] == trained_auc["params_sha256"]
        (noise,) = store.select(dataset=dataset, attack="noise", metric="p@k")
        assert noise["value"] > 0.95
    for dataset, guard in (("digits", "bg"), ("planted", "train_auc")):
        assert {"same", "null", "class_accuracy", guard} <= {
            r["metric"] for r in store.select(dataset=dataset, attack="none")
        }
    assert "| dataset | fold |" in (out / "table_k10.md").read_text()

    def measure(*arguments, **keywords):
        raise AssertionError("measured again")

    monkeypatch.setattr(evaluation.Evaluator, "attacked", measure)
    monkeypatch.setattr(evaluation.Evaluator, "clean", measure)
    before = (out / "records.jsonl").read_bytes()
    call("attack", *given)
    assert (out / "records.jsonl").read_bytes() == before


def check_any_of_two(store, cell, suffix=""):
    any_, pair, single = (
        store.select(**cell, metric=f"sensitivity{part}{suffix}")[0]
        for part in ("", "_pair", "_class")
    )
    assert any_["n"] == pair["n"] == single["n"] == 6
    assert max(pair["value"], single["value"]) - 1e-6 <= any_["value"]
    assert any_["value"] <= pair["value"] + single["value"] + 1e-6


def test_any_changed_prediction_of_a_pair_counts(constrained):
    store = records.RecordStore(constrained / "records.jsonl")
    for dataset, (_, k, budgets, _) in SAVED.items():
        for weighting in ("unconstrained", "fixed"):
            cell = {"dataset": dataset, "weighting": weighting, "k": k, "fold": 0}
            cell["epsilon"] = budgets[-1]
            check_any_of_two(store, cell, "_last")
            (length,) = store.select(**cell, metric="length")
            assert 0 < length["value"] <= 1 + 1e-5
    config = json.loads((constrained / "config.json").read_text())["flags"]
    assert config["by_dataset"]["planted"] == {
        "k": [10], "epsilon": [0.02], "seeds": [0],
    }  # fmt: skip


def test_the_constraint_holds_the_pair_and_the_class_of_its_first_input(constrained):
    store = records.RecordStore(constrained / "records.jsonl")

    def total(dataset, weighting):
        cell = {"dataset": dataset, "weighting": weighting}
        return sum(
            records.number(store.select(**cell, metric=metric)[0]["value"])
            for metric in ("kl", "kl_class")
        )

    for dataset in SAVED:
        assert total(dataset, "fixed") < total(dataset, "unconstrained")


def test_constrained_attacks_are_reported_apart_and_together(constrained):
    text = (constrained / "table.md").read_text()
    assert "l2 budget ε = 0.2" in text and "linf budget ε = 0.02" in text
    assert "The partner is not moved" in text
    assert "single test inputs classified rightly: " in text
    names = {path.name for path in constrained.iterdir()}
    for dataset in SAVED:
        assert {f"table_{dataset}.md", f"front_{dataset}.png"} <= names
    (header, *_) = (constrained / "table_digits.csv").read_text().splitlines()
    assert "class changed" in header


def test_the_classifier_of_single_inputs_is_fitted_to_their_embeddings(root):
    from sklearn.linear_model import LogisticRegression

    name = SAVED["digits"][0]
    model, params, _ = saved.load(root / "train" / "models" / name)
    problem = registry.problem(datasets.load("digits"))
    fitted, with_classifier = trained.with_classifier(problem, model, params)
    assert fitted == model  # two classes: one logit
    train, test = problem.dataset.train, problem.dataset.test
    used = sorted({*train.first.tolist(), *train.second.tolist()})
    embed = jax.jit(
        jax.vmap(lambda x: model.apply(params, x, method="embed")),
    )
    inner, outer = (
        np.asarray(embed(jnp.asarray(inputs)), np.float64)
        for inputs in (train.inputs[used], test.x)
    )
    mean, spread = inner.mean(0), inner.std(0)
    spread = np.where(spread > 0, spread, 1)
    reference = LogisticRegression(max_iter=2000).fit(
        (inner - mean) / spread, train.labels[used]
    )
    classify = jax.jit(jax.vmap(class_apply(fitted), (None, 0)))
    np.testing.assert_allclose(
        classify(with_classifier, test.x)[:, 0],
        reference.decision_function((outer - mean) / spread),
        rtol=1e-3,
        atol=1e-3,
    )
    share, n = trained.class_accuracy(problem, fitted, with_classifier)
    assert share > 0.8 and n == len(set(test.first.tolist()))
    # All but the classifier is as it was trained.
    for part in params["params"]:
        if part != "classifier":
            jax.tree.map(
                np.testing.assert_array_equal,
                with_classifier["params"][part],
                params["params"][part],
            )
    again = trained.with_classifier(problem, model, params)[1]
    jax.tree.map(np.testing.assert_array_equal, with_classifier, again)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--datasets=digits", "--fold=1"], "--fold is for graphs, digits has none"),
        (["--datasets=planted", "--fold=7"], "fold must lie in 0…4, got 7"),
        (["--datasets=digits", "--methods=skip"], "skip is for tabular data"),
        (["--datasets=planted", "--k=435"], "k must lie in 1…n−1 = 1…434"),
        (["--datasets=hiv", "--data_dir={}"], "python -m data_prep.brain_graphs"),
    ],
)
def test_mistakes_end_before_any_training(
    tmp_path, monkeypatch, capsys, arguments, text
):
    def train(*arguments, **keywords):
        raise AssertionError("the mistake was noticed after the start of training")

    monkeypatch.setattr(fitting.Fitter, "fit", train)
    out = tmp_path / "refused"
    given = [argument.format(tmp_path) for argument in arguments]
    with pytest.raises(SystemExit):
        call("train", *given, f"--output_dir={out}")
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert text in error and not out.exists()


def test_networks_of_pairs_and_of_one_input_are_told_apart(root, tmp_path, capsys):
    line = models.Linear()
    params = line.init(jax.random.key(0), np.zeros(64, np.float32))
    saved.save(tmp_path / "line", line, params, {"dataset": "digits", "k": 8})
    of_pairs = root / "train" / "models" / SAVED["digits"][0]
    for arguments, text in (
        ([f"--model={tmp_path / 'line'}"], "Linear, 'digits' needs a Siamese network"),
        (
            [f"--model={of_pairs}", "--datasets=breast_cancer"],
            "needs a network of one input",
        ),
        (
            [f"--model={of_pairs}", "--datasets=planted"],
            "take the 435 features of planted",
        ),
    ):
        with pytest.raises(SystemExit):
            call("attack", *arguments, f"--output_dir={tmp_path / 'out'}")
        assert text in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
