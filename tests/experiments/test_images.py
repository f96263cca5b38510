"""Single images with channels and several classes through training to the tables."""

import dataclasses
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from data_prep import images
from experiments.console import cli
from experiments.measures.evaluation import Evaluator
from experiments.models import candidates, fitting
from experiments.problems import presets, protocols
from experiments.problems.images import ImageProblem
from experiments.problems.registry import problem
from experiments.store import records
from r2et_jax import datasets, saliency, score
from r2et_jax.datasets.containers import Split

SIDE, CLASSES, K = 8, 3, 8
TINY = {
    "pretrain_epochs": 2, "epochs": 1, "eval_every": 1, "batch_size": 32,
    "learning_rate": 5e-3, "num_train": None, "num_valid": 4, "num_test": 6,
    "strongest_evaluations": 900,
}  # fmt: skip


def prepare(folder, *, side=SIDE, channels=3, num_images=160):
    """A prepared file in which each class has a quarter that is brighter."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(num_images) % CLASSES)
    shape = (num_images, side, side, channels)
    pixels = rng.integers(20, 120, shape)
    for c in range(CLASSES):
        row, column = (side // 2 * index for index in divmod(c, 2))
        mine = np.flatnonzero(labels == c)
        pixels[mine, row : row + side // 2, column : column + side // 2] += 60
    pixels[:, 0, 0] = 0
    images._write_images(
        folder / "cifar10.npz",
        pixels.astype(np.uint8),
        labels,
        np.arange(num_images) >= 3 * num_images // 4,
        ["cat", "dog", "frog"],
        {"name": "cifar10"},
        seed=0,
    )
    return datasets.load("cifar10", data_dir=folder)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(data_dir):
    return problem(datasets.load("cifar10", data_dir=data_dir))


def call(name, data_dir, folder, *arguments):
    experiment = importlib.import_module(f"experiments.{name}.experiment")
    folders = f"--data_dir={data_dir}", f"--models_dir={folder / 'models'}"
    options = "--preset=smoke", "--noprogress", f"--output_dir={folder / name}"
    cli.call(experiment, *options, *folders, *arguments)


@pytest.fixture(scope="module")
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.CHANGES, ("smoke", "single"), TINY)
        # Compiles in a fraction of the time; er_surrogate is measured below.
        patch.setattr(candidates, "_ATTACK", "random")
        patch.delenv("R2ET_DEBUG", raising=False)
        yield


ROBUSTNESS = (
    "--datasets=cifar10", "--methods=vanilla,r2et_nh", "--attacks=er_surrogate",
    "--seeds=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir, tiny):
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("images")
    call("robustness", data_dir, folder, *ROBUSTNESS)
    return folder


def test_records_are_of_pixels_and_all_classes(finished, pictures):
    store = records.RecordStore(finished / "robustness" / "records.jsonl")
    for method in ("vanilla", "r2et_nh"):
        shared = {"dataset": "cifar10", "method": method, "tolerance": 0.01}
        attacked = store.select(**shared, attack="er_surrogate", metric="p@k")
        assert [record["epsilon"] for record in attacked] == [0.1, 0.2]
        assert {record["norm"] for record in attacked} == {"l2"}
        assert {(r["k"], r["model"], r["n"]) for r in attacked} == {(K, "mlp", 6)}
        assert all(0 <= record["value"] < 1 for record in attacked)
        clean = {r["metric"]: r for r in store.select(**shared, attack="none")}
        assert {"auc", "same", "null", "bg"} <= clean.keys()
        assert "linear_r2" not in clean and 0.5 < clean["auc"]["value"] <= 1
        assert clean["auc"]["n"] == len(pictures.dataset.test.y)
        (changed,) = store.select(
            **shared, attack="er_surrogate", epsilon=0.2, metric="sensitivity"
        )
        assert 6 * changed["value"] == pytest.approx(round(6 * changed["value"]))
    config = json.loads((finished / "robustness" / "config.json").read_text())
    assert config["flags"]["by_dataset"]["cifar10"]["k"] == [K]
    text = (finished / "robustness" / "table.md").read_text()
    assert "l2 budget ε = 0.2 on pixels" in text and "bg" in text


def test_the_same_models_stand_under_another_norm(finished, data_dir):
    kept = sorted((finished / "models").rglob("*"))
    out = finished / "linf"
    given = "--norm=linf", f"--output_dir={out}"
    call("robustness", data_dir, finished, *ROBUSTNESS, *given)
    assert sorted((finished / "models").rglob("*")) == kept, "trained again"
    store = records.RecordStore(out / "records.jsonl")
    attacked = store.select(attack="er_surrogate", metric="p@k", tolerance=0.01)
    assert {(r["norm"], r["epsilon"]) for r in attacked} == {
        ("linf", 0.01), ("linf", 0.02),
    }  # fmt: skip
    assert "linf budget ε = 0.02" in next(out.glob("table*.md")).read_text()
    chosen = [
        records.RecordStore(folder / "records.jsonl").select(metric="valid_p@k")
        for folder in (finished / "robustness", out)
    ]
    assert [r["value"] for r in chosen[0]] == [r["value"] for r in chosen[1]]


def test_the_norm_is_of_the_attacks_and_not_of_the_selection(pictures):
    other = problem(pictures.dataset, norm="linf")
    assert (
        other.threat_model(0.02).norm == "linf" and other.epsilon["paper"][-1] == 0.02
    )
    assert other.view.norm == "linf"
    assert other.view.num_steps == 100
    assert other.selection_view == pictures.view == pictures.selection_view
    assert other.selection_epsilon == other.radius == pictures.selection_epsilon == 0.2
    assert other.config("r2et") == pictures.config("r2et")
    pairs = datasets.load("digits")
    both = problem(pairs), problem(pairs, norm="linf")
    assert both[0].config("vanilla") == both[1].config("vanilla")
    assert [each.view.norm for each in both] == ["l2", "linf"]
    for dataset in ("breast_cancer", "planted"):
        with pytest.raises(ValueError, match=f"norm is for images, .* {dataset}"):
            problem(datasets.load(dataset), norm="linf")


def test_a_second_run_changes_nothing(finished, data_dir, monkeypatch):
    def train(*arguments, **keywords):
        raise AssertionError("trained again")

    monkeypatch.setattr(fitting.Fitter, "_fit_network", train)
    path = finished / "robustness" / "records.jsonl"
    before = path.read_bytes()
    call("robustness", data_dir, finished, *ROBUSTNESS)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_the_same_models_are_saved_attacked_and_drawn(finished, data_dir):
    """What was trained above is found by the other commands."""
    few = "--datasets=cifar10", "--methods=r2et_nh", "--seeds=0"
    call("train", data_dir, finished, *few)
    saved = finished / "train" / "models" / "cifar10-r2et_nh-seed0-tolerance0.01"
    described = json.loads((saved / "description.json").read_text())
    assert described["shape"] == [SIDE, SIDE, 3] and "columns" not in described
    call("attack", data_dir, finished, f"--model={saved}", "--attacks=er_surrogate")
    first, second = (
        records.RecordStore(finished / name / "records.jsonl").select(
            method="r2et_nh", tolerance=0.01, attack="er_surrogate", metric="p@k"
        )
        for name in ("robustness", "attack")
    )
    assert [r["value"] for r in first] == [r["value"] for r in second]
    call(
        "case_study",
        data_dir,
        finished,
        *ROBUSTNESS[:2],
        "--seeds=0",
        "--attacks=er_surrogate",
        "--num_examples=1",
    )
    (caption,) = json.loads(
        (finished / "case_study" / "captions.json").read_text()
    ).values()
    assert "top 8 pixels before and after the attack" in caption
    assert any(f"is of the class {name}." in caption for name in ("cat", "dog", "frog"))


@pytest.fixture(scope="module")
def vanilla(pictures):
    """A module and random parameters of it."""
    model = pictures.model("vanilla")
    return model, jax.jit(model.init)(jax.random.key(0), pictures.sample)


def test_auc_is_the_mean_of_one_class_against_the_others(pictures, vanilla):
    model, params = vanilla
    x, partner, y = pictures.inputs("valid")
    logits = pictures.view.logits(model, params, x, partner)
    expected = roc_auc_score(y, softmax(logits, axis=1), multi_class="ovr")
    batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None, None], params)
    measured = candidates.Candidates(pictures, model, k=K, num_valid=4).auc(batch)
    np.testing.assert_allclose(measured, [[expected]], atol=1e-6)


def test_logits_come_in_chunks(pictures, vanilla):
    model, params = vanilla
    x = pictures.inputs("train").x
    whole = jax.vmap(model.apply, (None, 0))(params, x)
    for chunk in (7, 256):
        view = dataclasses.replace(pictures.view, chunk=chunk)
        value = view.logits(model, params, x, None)
        assert value.shape == (len(x), CLASSES)
        np.testing.assert_allclose(value, whole, atol=1e-5)


def test_the_order_of_the_channels_is_of_no_account(pictures, vanilla):
    model, params = vanilla
    explain = jax.jit(pictures.view.explainer(score.log_odds(model.apply)))
    order = np.arange(pictures.sample.size).reshape(-1, 3)[:, [2, 0, 1]].ravel()
    first = params["params"]["Dense_0"]
    turned = {**first, "kernel": first["kernel"][order]}
    moved = {"params": {**params["params"], "Dense_0": turned}}
    x = pictures.dataset.test.x[0]
    value = explain(params, x, 1)
    assert value.shape == (SIDE * SIDE,)
    np.testing.assert_allclose(explain(moved, x[order], 1), value, rtol=1e-5)
    # A sum over the channels of |∇u|.
    slope = jax.jit(jax.grad(score.log_odds(model.apply), argnums=1))(params, x, 1)
    expected = np.abs(slope).reshape(SIDE, SIDE, 3).sum(axis=2).ravel()
    np.testing.assert_allclose(value, expected / expected.sum(), rtol=1e-5)


def test_a_pixel_is_background_if_all_of_its_channels_are(pictures, vanilla):
    evaluator = Evaluator(pictures, vanilla[0], k=2, num_test=2)
    assert evaluator.x.shape == (2, SIDE * SIDE * 3)
    x = np.full((2, SIDE * SIDE, 3), 0.5)
    x[:, :2], x[0, 1, 2] = 0, 0.1
    evaluator.x = jnp.asarray(x.reshape(2, -1))
    maps = np.zeros((2, SIDE * SIDE))
    maps[:, :2] = 1.0
    assert evaluator._background(maps)["value"] == pytest.approx((0.5 + 1) / 2)


def test_the_loss_of_vanilla_is_the_cross_entropy_of_all_classes(pictures, vanilla):
    model, params = vanilla
    x, y = pictures.training(8)
    built = pictures.objective("vanilla", model, k=K)
    value = jax.jit(built.loss)(params, x, y, jnp.zeros(0))
    shares = softmax(np.asarray(model.apply(params, x), np.float64), axis=1)
    np.testing.assert_allclose(value, -np.mean(np.log(shares[np.arange(8), y])), 1e-5)


def test_images_of_full_size_meet_a_resnet(tmp_path):
    full = problem(prepare(tmp_path, side=32, num_images=40), pooling="average")
    assert isinstance(full, ImageProblem)
    assert (full.k, full.num_features, full.num_outputs) == (50, 1024, CLASSES)
    model = full.model("sp")
    assert (model.activation, model.pooling, model.width) == ("softplus", "average", 64)
    assert full.architecture(model) == "resnet9_average"
    # Two settings that are trained anew are other models.
    other = problem(full.dataset)
    assert other.config("sp") != full.config("sp") == full.config("sp")
    narrow = model.clone(width=8)
    params = jax.eval_shape(narrow.init, jax.random.key(0), full.sample)
    view = full.view
    x = jax.ShapeDtypeStruct((300, 3072), np.float32)
    logits = jax.eval_shape(lambda p, x: view.logits(narrow, p, x, None), params, x)
    assert logits.shape == (300, CLASSES)
    x, y = full.training(2)
    made = full.objective("wd+r2et_mm_nh", narrow, k=full.k)
    slope = jax.eval_shape(jax.grad(made.loss), params, x, y, jnp.ones(2))
    assert jax.tree.map(jnp.shape, slope) == jax.tree.map(jnp.shape, params)


def test_two_classes_have_one_logit(pictures):
    data = pictures.dataset
    parts = {
        name: Split(split.x[split.y < 2], split.y[split.y < 2])
        for name in ("train", "valid", "test")
        for split in [getattr(data, name)]
    }
    two = problem(data._replace(**parts))
    model = two.model("vanilla")
    params = jax.eval_shape(model.init, jax.random.key(0), two.sample)
    x = jax.ShapeDtypeStruct((5, two.sample.size), np.float32)
    logits = jax.eval_shape(lambda p, x: two.view.logits(model, p, x, None), params, x)
    assert two.num_outputs == 1 and logits.shape == (5,)


def test_grey_images_are_explained_by_the_gradient_itself(pictures):
    data = pictures.dataset
    grey = problem(data._replace(meta={**data.meta, "shape": [SIDE, 3 * SIDE]}))
    assert grey.shape == (SIDE, 3 * SIDE, 1) and grey.num_features == 3 * SIDE * SIDE
    assert grey.view.explainer is saliency.gradient


@pytest.mark.parametrize("method", ["logistic", "skip", "wd+cert_rank"])
def test_methods_of_tables_are_refused(pictures, method):
    with pytest.raises(ValueError, match="is for tabular data: cifar10 holds images"):
        pictures.model(method)


def test_defaults_have_no_closed_forms_and_no_linear_part(pictures):
    for preset in ("smoke", "standard", "paper"):
        for method in pictures.methods(preset, ("logistic",)):
            pictures.check_method(method)
    names = pictures.methods("standard", ())
    assert "hutchinson_h" in names and not {"exact_h", "skip+cert_rank"} & set(names)


def test_weights_are_those_of_images_with_as_many_features():
    single, pairs = (
        protocols.protocol("standard", kind, 784) for kind in ("single", "image")
    )
    assert (single.grid, single.paired) == (pairs.grid, pairs.paired)
    assert single.max_models == 2
