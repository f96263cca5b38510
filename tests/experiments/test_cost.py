"""What the experiment `cost` counts: agreement with PyTorch, FLOPs and memory."""

import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.console import cli
from experiments.cost import costs, experiment, measure, report
from experiments.cost import floors as cost_floors
from experiments.cost import image_parts as cost_image_parts
from experiments.cost import images as cost_images
from experiments.cost.parts import training_floor, training_flops
from experiments.cost.workload import SIZES, Workload
from experiments.report import exhibit
from r2et_jax import attacks, datasets, models, objectives
from r2et_jax.attacks.runner import attack_batch
from r2et_jax.threat import threat_model

K, NUM_FEATURES = 8, 28


@pytest.fixture(scope="module")
def adult_like():
    """The published MLP of Adult's size, with inputs like standardised ones."""
    rng = np.random.default_rng(0)
    model = models.MLP()
    params = model.init(jax.random.key(1), jnp.zeros(NUM_FEATURES))
    x = jnp.asarray(rng.normal(size=(16, NUM_FEATURES)), jnp.float32)
    return costs.Victim(model, params, x)


@pytest.mark.parametrize(
    "form", ["attack_batched", "attack_tuned", "attack_one_by_one"]
)
@pytest.mark.filterwarnings("default")
def test_the_attack_in_pytorch_agrees(adult_like, form):
    pytest.importorskip("torch")
    import torch

    from experiments.cost import torch_reference

    model, params, x, _ = adult_like
    # Trained-like scale, so that the sigmoid bends and the surface has kinks nearby.
    params = jax.tree.map(lambda leaf: 1.5 * leaf, params)
    attack = costs.protocol(costs.Victim(model, params, x), "er", k=K).attack
    run = attacks.compile_attack(attack, num_steps=50)
    expected = run(
        params, x, threat_model("l2", 1.0), key=jax.random.key(0)
    ).details.last
    layers = torch_reference.layers_of(params)
    inputs = torch.tensor(np.asarray(x))
    np.testing.assert_allclose(
        np.asarray(model.apply(params, x))[:, 0],
        torch_reference.logits(layers, inputs).numpy(),
        atol=1e-5,
    )
    perturbed = getattr(torch_reference, form)(
        layers, inputs, k=K, epsilon=1.0, num_steps=50
    ).numpy()
    assert np.linalg.norm(perturbed - np.asarray(x), axis=1).min() > 0.02
    np.testing.assert_allclose(np.asarray(expected), perturbed, atol=1e-4)


@pytest.mark.parametrize(
    ("dataset", "options"),
    [("mnist", {}), pytest.param("cifar10", {"width": 8}, marks=pytest.mark.slow)],
)
@pytest.mark.filterwarnings("default")
def test_the_attack_on_images_in_pytorch_agrees(dataset, options, tmp_path):
    pytest.importorskip("torch")
    import torch

    from experiments.cost import torch_images as cost_torch_images

    victim = costs.image_victim(dataset, data_dir=tmp_path, num=3, seed=0, **options)
    attack = costs.protocol(victim, "er", k=K).attack
    run = costs.driven_attack(attack, num_steps=5, batch_size=3)
    threat, key = threat_model("l2", 20.0), jax.random.key(0)
    args = victim.params, victim.x, threat
    result = run(*args, key=key, context=victim.context)
    x = np.asarray(victim.x)
    moved = np.linalg.norm(result - x, axis=1)
    # The step is 0.02 long; its direction hardly changes.
    assert (moved > 0.05).all() and (moved < 0.1001).all()
    for layout in cost_torch_images.LAYOUTS:
        network = cost_image_parts.torch_forms(victim, layout)(slice(0, 3))
        perturbed = cost_torch_images.attack(
            network, torch.tensor(x), k=K, epsilon=20.0, num_steps=5
        ).numpy()
        off = np.linalg.norm(perturbed - result, axis=1)
        # A ReLU that switches in one of both turns the direction a little.
        assert (off < 5e-3 * moved).all()


def test_images_that_were_not_prepared_are_random(tmp_path):
    pairs = cost_images.load("mnist", data_dir=tmp_path)
    single = cost_images.load("cifar10", data_dir=tmp_path)
    assert pairs.random and single.random and single.partner is None
    assert pairs.x.shape[1] == pairs.partner.shape[1] == 784
    assert set(pairs.y) == {0, 1} and set(single.y) == set(range(10))
    assert 0 <= single.x.min() < 0.01 and 0.99 < single.x.max() <= 1
    again = single.repeated(len(single.x) + 1)
    np.testing.assert_array_equal(again.x[-1], single.x[0])
    with pytest.raises(ValueError, match="dataset"):
        cost_images.load("adult", data_dir=tmp_path)


def test_grouped_convolutions_are_counted():
    def convolve(x, kernel):
        return jax.lax.conv(x[None], kernel, (1, 1), "VALID")[0]

    x, kernel = jnp.ones((3, 2, 5, 5)), jnp.ones((4, 2, 2, 2))
    plain = jax.jit(jax.vmap(convolve, (0, None))).lower(x, kernel).compile()
    assert cost_image_parts.count_convolutions(plain.as_text()) == (1, 0)
    kernels = jnp.stack([kernel] * 3)
    mapped = jax.jit(jax.vmap(convolve)).lower(x, kernels).compile()
    assert cost_image_parts.count_convolutions(mapped.as_text()) == (1, 1)


def test_flops_of_a_step_of_the_attack(adult_like):
    attack = costs.protocol(adult_like, "er", k=K).attack
    counted = costs.attack_step_flops(adult_like, attack, epsilon=1.0, batch=256)
    units = counted.flops / costs.forward_flops(adult_like, batch=256)
    assert not counted.has_loop
    # A gradient and its tangent are 4 forward passes, less what they share; the
    # projection of both comes on top.
    assert 3 < units <= 4.6


def test_flops_of_a_training_step():
    data = datasets.load("breast_cancer")
    x, y = jnp.asarray(data.train.x[:256]), jnp.asarray(data.train.y[:256])
    flops = {
        name: training_flops(name, x, y, k=K) for name in ("vanilla", "r2et", "r2et_nh")
    }
    assert not any(counted.has_loop for counted in flops.values())
    vanilla = flops["vanilla"].flops
    # Forward, and backward into the weights alone: 2 passes through 30 × 32 + 32;
    # biases, activations and Adam come on top.
    assert vanilla == pytest.approx(256 * 2 * 2 * (30 * 32 + 32), rel=0.15)
    assert 1 < flops["r2et_nh"].flops / vanilla <= 4
    assert 1 < flops["r2et"].flops / vanilla <= 8


@pytest.mark.slow
@pytest.mark.parametrize("name", objectives.NAMES)
def test_no_method_takes_far_more_flops_than_its_floor(name):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(256, NUM_FEATURES)), jnp.float32)
    y = jnp.asarray(rng.integers(0, 2, 256))
    counted = training_flops(name, x, y, k=K)
    floor = training_floor(name, NUM_FEATURES, k=K, batch=256)
    assert not counted.has_loop
    # Never below: the floor counts products that no form of the method can do without.
    assert 1 < counted.flops / (256 * floor.flops) <= 1.5


def test_a_floor_is_the_sum_of_its_passes():
    deep = cost_floors.Network(50, (40, 30), 3, False, k=5, k_prime=2)
    inner = 2 * (40 * 30 + 30 * 3)
    whole = inner + 2 * 50 * 40
    assert (deep.inner, deep.whole) == (inner, whole)
    assert deep._replace(skip=True).whole == whole + 2 * 50 * 3
    vanilla = cost_floors.floor("vanilla", deep)
    assert vanilla.flops == 2 * whole + inner
    # Forward, gradient, its reverse; the ranking beside it.
    ranked = cost_floors.floor("r2et_nh", deep)
    assert ranked.extra == 4 * 50**2
    assert ranked.flops == vanilla.flops + 3 * whole + ranked.extra
    # A sum shares the gradient, and counts its reverse once.
    curved = cost_floors.floor("est_h", deep)
    both = cost_floors.floor("r2et", deep)
    assert curved.flops == 8 * whole + 4 * inner
    assert both.flops == 10 * whole + 2 * inner + ranked.extra
    # One more logit is one more Jacobian row with its reverse.
    more = cost_floors.floor("cl", deep._replace(skip=True)).passes
    less = cost_floors.floor("cl", deep._replace(skip=True, num_logits=2)).passes
    assert more - less == pytest.approx(3, abs=0.05)
    # 2 × 5 border pairs and 7 border features, for each of 70 hidden units.
    certified = cost_floors.floor("cert_rank", deep._replace(k=2))
    assert certified.flops == ranked.flops + 70 * (10 * 10 + 11 * 7)
    # Three steps of four passes; forward and gradient at x; a vanilla step at x + δ.
    attacked = cost_floors.floor("at", deep)
    assert attacked.flops == vanilla.flops + (3 * 4 + 2) * whole + ranked.extra
    mixed = cost_floors.floor("at_mixed", deep)
    assert mixed.flops == attacked.flops + whole + inner
    noisy = cost_floors.floor("hutchinson_h", deep._replace(number=7.0))
    assert noisy.extra == 7 * 4 * 50


def test_a_floor_that_is_not_derived_is_not_told(monkeypatch):
    deep = cost_floors.Network(50, (40, 30), 3, False, k=5, k_prime=2)
    monkeypatch.delitem(cost_floors.FLOORS, "gap")
    assert cost_floors.floor("wd+r2et_nh", deep) is None


def test_every_floor_is_of_a_penalty_and_every_published_method_has_one():
    terms = {t for method in objectives.METHODS.values() for t in method.terms}
    assert set(cost_floors.FLOORS) <= terms
    deep = cost_floors.Network(50, (40, 30), 3, False, k=5, k_prime=2)
    for name in ("wd", "exact_h", "ssr", "at", "r2et", "r2et_nh", "r2et_mm", "logit_h"):
        assert cost_floors.floor(name, deep) is not None, name


def test_loops_of_known_length_are_counted_in_full():
    def looped(x):
        return jax.lax.fori_loop(0, 7, lambda _, v: jnp.sin(v @ v), x)

    def nested(x):
        return jax.jit(lambda x: jax.lax.map(looped, jnp.stack([x, 2 * x, 3 * x])))(x)

    once = costs.count_flops(lambda x: jnp.sin(x @ x), jnp.eye(8))
    for fn, times in ((looped, 7), (nested, 21)):
        counted = costs.count_flops(fn, jnp.eye(8))
        assert not counted.has_loop
        assert counted.flops == pytest.approx(times * once.flops, rel=0.05)


def test_a_loop_of_unknown_length_is_told():
    def looped(x):
        return jax.lax.while_loop(lambda v: jnp.sum(v) < 100, lambda v: 2 * v @ v, x)

    assert costs.count_flops(looped, jnp.eye(4)).has_loop


def test_memory_of_an_attack_on_many_inputs_is_bounded(adult_like):
    attack = costs.protocol(adult_like, "er", k=K).attack
    run = jax.jit(attack_batch(attack, num_steps=1000, track_every=10))
    x = jax.ShapeDtypeStruct((100_000, NUM_FEATURES), jnp.float32)
    args = adult_like.params, x, threat_model("l2", 1.0)
    size = costs.compiled_bytes(run, *args, key=jax.random.key(0))
    # At least its argument and the two traces of 100 numbers for each input.
    assert 100_000 * 4 * (NUM_FEATURES + 200) < size < 2 * 2**30


def test_bytes_of_a_result(adult_like):
    attack = costs.protocol(adult_like, "er", k=K).attack
    size = cost_image_parts.result_bytes(adult_like, attack)
    # Two maps, three inputs, and not much more than twenty single numbers.
    assert 5 * 4 * NUM_FEATURES < size < 5 * 4 * NUM_FEATURES + 100


def test_interleaved_times_each_function_in_every_round():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = costs.interleaved(runs, rounds=2)
    assert calls == ["a", "b", "a", "b", "b", "a"]
    assert {name: times.shape for name, times in seconds.items()} == {
        "a": (2,),
        "b": (2,),
    }
    slow = {0.0: "fast", 0.02: "slow"}
    runs = {name: functools.partial(time.sleep, t) for t, name in slow.items()}
    assert costs.fastest(runs, rounds=2) == "fast"


def _fake_records():
    workload = Workload("adult", ".", ("r2et",), ("er",), 8, 1.0, 0, SIZES["smoke"])
    fields = {"attack": "er", "epsilon": 1.0}
    return [
        workload.record("flops_ratio", 1.0, 1, method="vanilla"),
        workload.record("flops_ratio", 8.5, 1, method="r2et", note="has a loop"),
        workload.record("flops_floor", 5.0, 1, method="r2et", note="vanilla 2; g 1"),
        workload.record("floor_passes", 10.1, 1, method="r2et"),
        workload.record("flops_over_floor", 1.7, 1, method="r2et"),
        *workload.spread("time_ratio", np.array([1.0, 3.0, 2.0]), method="r2et"),
        workload.record("flop_units", 4.25, 1, **fields),
        *workload.spread("throughput", np.array([2e6, 5e6, 3e6]), **fields),
    ]


def test_the_results_show_medians_ranges_and_targets(tmp_path, drawn):
    report.write_results(tmp_path, _fake_records(), "PyTorch was skipped.", ())
    table = (tmp_path / "table.md").read_text()
    assert "| adult | r2et | 8.50 | 5.00 | 1.70 | 2.00 (1.00 … 3.00) | – |" in table
    assert "| r2et | 10.10 | vanilla 2; g 1 |" in table
    assert "flops_over_floor of adult r2et ≤ 1.5, measured 1.7: MISSED" in table
    assert "| adult | er | 4.25 | 3.00 (2.00 … 5.00) | – |" in table
    assert "flops_ratio of adult r2et ≤ 8, measured 8.5: MISSED" in table
    assert "flop_units of adult er ≤ 4.5, measured 4.25: met" in table
    assert "r2et, flops_ratio: has a loop." in table
    assert "PyTorch was skipped." in table
    assert (tmp_path / "table.csv").read_text().startswith("dataset,method,attack")
    assert {"FLOPs, adult", "time, adult", "vanilla", "r2et"} <= drawn.texts("cost.png")
    assert list(exhibit.read(tmp_path).figures) == ["cost.png"]


def test_the_results_say_what_was_measured_on_images(tmp_path):
    workload = Workload(
        "cifar10", ".", ("r2et",), ("er",), 8, 1.0, 0, SIZES["smoke"], "smoke",
        "resnet9",
    )  # fmt: skip
    fields = {"attack": "er", "epsilon": 1.0}
    note = {"note": cost_images.RANDOM_NOTE}
    recorded = [
        workload.record("flop_units", 3.5, 1, **fields, **note),
        workload.record("grouped_convolutions", 0, 1, **fields),
        *workload.spread("host_driven_ratio", np.array([3.0, 2.0, 4.0]), **fields),
        *workload.spread(
            "throughput_ratio", np.array([1.2]), against="torch_batched", **fields
        ),
        workload.record("resident_growth_bytes", 2**20, 512, **fields),
        workload.record("resident_growth_bytes_few", 2**21, 64, **fields),
        workload.record("result_bytes", 2**22, 512, **fields),
    ]
    report.write_results(tmp_path, recorded, "", ())
    table = (tmp_path / "table.md").read_text()
    assert "| cifar10 | er | 3.50 | – | – | 3.00 (2.00 … 4.00) |" in table
    assert "| cifar10 | er | – | 1 | 2 | 4 | – | – |" in table
    assert f"cifar10, er, flop_units: {cost_images.RANDOM_NOTE}." in table
    target = "throughput_ratio of cifar10 torch_batched ≥ 1, measured 1.2: met."
    assert target in table
    assert "grouped_convolutions of cifar10 er ≤ 0, measured 0: met." in table
    assert "a process that has compiled it" in table
    assert not (tmp_path / "cost.png").exists()
    assert list(measure.parts_of(workload)) == list(cost_image_parts.PARTS)
    assert "flops_ratio" in measure.parts_of(workload._replace(dataset="mnist"))


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--methods=r2ett", "r2ett"),
        ("--attacks=err", "err"),
        ("--datasets=adultt", "adultt"),
        ("--k=2,5", "--k takes one number"),
        ("--k=30", "30"),
        ("--epsilon=0", "epsilon"),
    ],
)
def test_a_wrong_flag_gives_one_line(flag, message, tmp_path, capsys):
    folder = f"--output_dir={tmp_path / 'out'}"
    with pytest.raises(SystemExit) as stopped:
        cli.call(experiment, "--preset=smoke", folder, flag)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_run_writes_its_table_and_the_flags_that_were_typed(tmp_path, monkeypatch):
    """What is measured is made up: the way from flags to files is walked whole."""
    recorded = [record | {"dataset": "breast_cancer"} for record in _fake_records()]
    monkeypatch.setattr(measure, "PARTS", {"flops_ratio": lambda workload: recorded})
    given = "--preset=smoke", "--noprogress", f"--output_dir={tmp_path / 'out'}"
    cli.call(experiment, *given, "--datasets=breast_cancer")
    told = json.loads((tmp_path / "out" / "exhibit.json").read_text())
    assert told["claims"]
    assert (tmp_path / "out" / "table.md").read_text().startswith("#")


@pytest.mark.slow
def test_a_run_resumes_without_measuring_again(tmp_path, capsys, monkeypatch):
    given = "--preset=smoke", "--noprogress", f"--output_dir={tmp_path / 'out'}"
    cli.call(experiment, *given)
    before = (tmp_path / "out" / "records.jsonl").read_bytes()
    monkeypatch.setattr(measure, "PARTS", dict.fromkeys(measure.PARTS, None))
    cli.call(experiment, *given)
    assert (tmp_path / "out" / "records.jsonl").read_bytes() == before
    assert "Training step" in capsys.readouterr().out
