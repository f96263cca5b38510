"""The ensemble against its members and P@k by NumPy, float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import attacks, saliency, score
from r2et_jax.attacks import ensemble, goals, optimizers
from r2et_jax.attacks.ensemble import (
    DEFAULT_EVALUATIONS,
    Member,
    default_ensemble,
    default_evaluations,
    round_cost,
)
from r2et_jax.attacks.strongest import compile_strongest
from r2et_jax.subject import Form
from r2et_jax.threat import contains, threat_model

N, K, M = 6, 2, 10


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def net(params, x, /):
    first, second = params
    return second @ jnp.tanh(first @ x)


def parameters():
    rng = np.random.default_rng(0)
    return jnp.asarray(0.5 * rng.normal(size=(8, N))), jnp.asarray(
        rng.normal(size=(1, 8))
    )


def inputs():
    return np.random.default_rng(1).normal(size=(M, N))


EXPLAIN = saliency.gradient(score.log_odds(net))


def descend(temperature):
    return attacks.gradient_attack(
        net,
        EXPLAIN,
        goals.smooth_precision(temperature=temperature),
        k=K,
        optimizer=optimizers.steepest(0.2),
        random_start=1.0,
    )


def draw():
    return attacks.random_search(net, EXPLAIN, k=K)


MEMBERS = (
    Member("wide", descend, (1.0,), 6, 3, 2, True),
    Member("narrow", descend, (0.2,), 6, 3, 2, False),
    Member("random", draw, (), 8, 1, 1, False),
)


@functools.cache
def compiled(names, evaluations, batch_size=512):
    members = [member for member in MEMBERS if member.name in names]
    return compile_strongest(members, evaluations=evaluations, batch_size=batch_size)


def run(
    names=("wide", "narrow", "random"),
    evaluations=72,
    rule="free",
    epsilon=0.3,
    **keywords,
):
    threat = threat_model("l2", epsilon, lower=-2.0, upper=2.0, prediction=rule)
    x = inputs().clip(-2, 2)
    attacked = compiled(tuple(names), evaluations, **keywords)(
        parameters(), x, threat, key=jax.random.key(0)
    )
    return attacked, x, threat


def maps(x):
    first, second = map(np.asarray, parameters())
    return np.abs(((1 - np.tanh(x @ first.T) ** 2) * second[0]) @ first)


def precision(x, moved):
    top, new = (np.argsort(-maps(values), axis=1)[:, :K] for values in (x, moved))
    return np.array([len({*a} & {*b}) / K for a, b in zip(top, new, strict=True)])


@pytest.mark.parametrize("rule", ["free", "same_class"])
def test_it_keeps_the_worst_of_its_members(rule):
    attacked, x, threat = run(rule=rule)
    lowest = attacked.details.member_precision.min(axis=0)
    np.testing.assert_array_equal(attacked.best.precision, lowest)
    assert lowest.mean() < 0.9
    for best in (attacked.best, attacked.best_same_class):
        np.testing.assert_allclose(best.precision, precision(x, best.perturbed))
        inside = jax.vmap(contains, (None, 0, 0))(
            threat, jnp.asarray(x), jnp.asarray(best.perturbed)
        )
        assert inside.all()
    first, second = map(np.asarray, parameters())
    before, after = (
        np.tanh(values @ first.T) @ second[0] > 0
        for values in (x, attacked.best_same_class.perturbed)
    )
    np.testing.assert_array_equal(before, after)
    assert (attacked.best.precision <= attacked.best_same_class.precision).all()
    if rule == "same_class":
        np.testing.assert_array_equal(attacked.best[1], attacked.best_same_class[1])
    reached = attacked.details.member_precision[attacked.details.winner, np.arange(M)]
    lowered = attacked.details.winner >= 0
    np.testing.assert_array_equal(reached[lowered], attacked.best.precision[lowered])
    np.testing.assert_array_equal(lowered, attacked.best.precision < 1)


def test_the_evaluations_are_kept_and_the_curve_never_rises():
    attacked, _, _ = run()
    # 12 + 12 + 8, then 20 a round without the first member: 32, 52, 72.
    assert attacked.details.curve_evaluations.tolist() == [
        0,
        12,
        24,
        32,
        44,
        52,
        64,
        72,
    ]
    assert (np.diff(attacked.details.curve, axis=0) <= 0).all()
    assert (attacked.details.curve[0] == 1).all()
    np.testing.assert_array_equal(attacked.details.curve[-1], attacked.best.precision)
    assert attacked.details.evaluations.max() <= 72
    stopped = attacked.best_same_class.precision == 0
    assert (attacked.details.evaluations[~stopped] == 72).all()


def test_neither_chunks_nor_a_second_run_change_the_result():
    attacked, _, _ = run()
    for other in (run()[0], run(batch_size=4)[0]):
        np.testing.assert_array_equal(other.best.precision, attacked.best.precision)
        np.testing.assert_allclose(other.best.perturbed, attacked.best.perturbed)
        np.testing.assert_array_equal(
            other.details.evaluations, attacked.details.evaluations
        )


def test_few_evaluations_leave_members_out():
    attacked, _, _ = run(["narrow", "random"], evaluations=10)
    assert attacked.details.curve_evaluations.tolist() == [0, 8]
    assert (attacked.details.member_precision[0] == 1).all()
    assert (attacked.details.evaluations == 8).all() and (
        attacked.details.winner != 0
    ).all()


def test_the_class_kept_is_attacked_as_hard_without_the_rule():
    """An input that is lost with its class is still attacked with its class kept."""
    free, kept = (run(rule=rule, epsilon=3.0)[0] for rule in ("free", "same_class"))
    assert (free.best.precision == 0).any()
    assert (free.best.precision < free.best_same_class.precision).any()
    np.testing.assert_array_equal(
        free.best_same_class.precision, kept.best_same_class.precision
    )


@pytest.mark.parametrize(
    ("members", "keywords", "message"),
    [
        ((), {}, "members must have distinct names"),
        ((MEMBERS[0], MEMBERS[0]), {}, "distinct names, got .'wide', 'wide'"),
        (MEMBERS, {"evaluations": 0}, "evaluations must be an integer"),
        (MEMBERS, {"batch_size": 0}, "batch_size must be an integer"),
    ],
)
def test_static_mistakes_are_named(members, keywords, message):
    with pytest.raises(ValueError, match=message):
        compile_strongest(members, **keywords)


@pytest.mark.parametrize("num_steps", [None, 100])
def test_every_member_of_the_default_ensemble_fits_its_evaluations(num_steps):
    """Also where they allow few restarts; less than that is said."""
    fewest = 1166 if num_steps else 2166
    for evaluations in (fewest, 4200, DEFAULT_EVALUATIONS):
        members = default_ensemble(
            Form(net), k=K, num_steps=num_steps, evaluations=evaluations
        )
        assert len({member.name for member in members}) == len(members) == 11
        assert round_cost(members) <= evaluations
        starts = {member.start for member in members}
        assert starts == {"clean", "best", "same_class"}
    few, many = (
        default_ensemble(Form(net), k=K, num_steps=num_steps, evaluations=evaluations)
        for evaluations in (fewest - 1, DEFAULT_EVALUATIONS)
    )
    # Published attacks of 1,200 steps gave way to such of 200, if none are asked for;
    # there is room for an evolution twice as long then.
    assert round_cost(few) == (1166 if num_steps else 1736)
    for drawn, longest in ((few, 9 if num_steps else 18), (many, 45)):
        assert {m.num_steps for m in drawn if m.suited == "cells"} == {longest}
        assert {m.num_steps for m in drawn if m.suited == "many_kinks"} == {9}


def test_larger_inputs_get_fewer_evaluations_and_every_member_still_runs():
    each = [default_evaluations(n) for n in (1, 256, 257, 16_384, 16_385, 10**7)]
    assert each == [16_000, 16_000, 3500, 3500, 1040, 1040]
    for evaluations in each:
        members = default_ensemble(Form(net), k=K, evaluations=evaluations)
        # Of the largest inputs no cells are searched, which all members together are.
        kinds = ensemble.KINDS if evaluations > 1040 else ("smooth", "many_kinks")
        assert round_cost(members, kinds) <= evaluations
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got 0"):
        default_evaluations(0)


def test_members_that_never_ran_are_named():
    attacked, _, _ = run(evaluations=31)
    assert attacked.details.left_out == ("random",)
    assert run(evaluations=32)[0].details.left_out == ()


def kinked(params, x, /):
    first, bias, second = params
    return second @ jax.nn.relu(first @ x + bias)


def annealed():
    return [
        member
        for member in default_ensemble(Form(kinked), k=K, evaluations=4200)
        if member.name in ("annealed", "elite_sharp")
    ]


@pytest.mark.standard_promotion
def test_units_that_are_all_but_switched_off_change_rho_by_their_share_alone():
    """Of 12 units and 13 that hardly move the mean is half, and the median nearly 0."""
    rng = np.random.default_rng(3)
    live = rng.normal(size=(12, N)), rng.normal(size=12), rng.normal(size=(1, 12))
    off = 1e-5 * rng.normal(size=(13, N)), rng.normal(size=13), np.zeros((1, 13))
    both = (
        np.concatenate([live[0], off[0]]),
        np.concatenate([live[1], off[1]]),
        np.concatenate([live[2], off[2]], axis=1),
    )
    x, threat = rng.normal(size=(30, N)), threat_model("l2", 0.5)
    doubled = [
        member._replace(settings=(2 * member.settings[0], *member.settings[1:]))
        for member in annealed()
    ]

    def precision(params, members):
        params = tuple(0.01 * p for p in params[:2]) + params[2:]
        attack = compile_strongest(members, evaluations=500)
        return attack(params, x, threat, key=jax.random.key(0)).precision

    expected = precision(live, doubled)
    np.testing.assert_array_equal(precision(both, annealed()), expected)
    assert not np.array_equal(precision(live, annealed()), expected)


@pytest.mark.standard_promotion
def test_the_units_of_hidden_layers_do_not_matter():
    """ReLU(c·z)/c = ReLU(z): the same model, of which a fixed ρ is another stand-in.

    Small pre-activations, as of graphs, were all within its smooth part.
    """

    rng = np.random.default_rng(2)
    first, bias = rng.normal(size=(12, N)), rng.normal(size=12)
    second = rng.normal(size=(1, 12))
    members = annealed()
    attack = compile_strongest(members, evaluations=500)
    x, threat = rng.normal(size=(30, N)), threat_model("l2", 0.5)

    def precision(unit):
        params = unit * first, unit * bias, second / unit
        return attack(params, x, threat, key=jax.random.key(0)).precision

    np.testing.assert_array_equal(precision(0.01), precision(1.0))
    # By powers of two nothing is rounded.
    np.testing.assert_array_equal(precision(2.0**-9), precision(2.0**-2))
    # Only ever sharper: in larger units than those of tables ρ stays as it is.
    assert not np.array_equal(precision(100.0), precision(1.0))


def test_a_start_is_where_the_best_so_far_is():
    """A member that does not move returns its start: nothing gets better by it."""
    still = Member("still", lambda: draw()._replace(step=lambda p, c, s: s), (), 1, 1,
                   1, False, "best")  # fmt: skip
    members = (*MEMBERS[:2], still)
    x = inputs().clip(-2, 2)
    threat = threat_model("l2", 0.3, lower=-2.0, upper=2.0)
    attacked = compile_strongest(members, evaluations=25)(
        parameters(), x, threat, key=jax.random.key(0)
    )
    before = attacked.details.member_precision[:2].min(axis=0)
    assert (before < 1).any()
    # Lost with its class, an input goes on from the best one of its class.
    lost = before == 0
    np.testing.assert_array_equal(
        attacked.details.member_precision[2][~lost], before[~lost]
    )


def test_every_member_compiles_once_however_few_inputs_are_left():
    traces = []

    def build(temperature):
        traces.append(None)
        return descend(temperature)

    member = ensemble.Member("counted", build, (0.3,), 20, 5, 2, False)
    run = compile_strongest([member], evaluations=40 * 5, batch_size=3)
    x = inputs()
    traces.clear()  # the judge builds one too
    result = run(parameters(), x, threat_model("l2", 3.0), key=jax.random.key(0))
    left = (result.details.curve > 0).sum(axis=1)
    assert left[-1] < left[0]  # some inputs have dropped out
    # Once for each of the phases of the one program: begin, advance, judge.
    assert len(traces) == 3


def test_members_that_differ_in_restarts_alone_share_a_program():
    """Each finds what it finds by itself, and the model is traced for one of them."""
    traced = []

    def build(temperature):
        traced.append(temperature)
        return descend(temperature)

    few = Member("few", build, (1.0,), 6, 3, 1, True)
    many = few._replace(name="many", restarts=5)
    args = parameters(), inputs(), threat_model("l2", 0.25)

    def attacked(*members):
        run = compile_strongest(members, evaluations=sum(m.cost for m in members))
        traced.clear()
        return run(*args, key=jax.random.key(3)), len(traced)

    (both, once), (alone, of_one) = attacked(few, many), attacked(few)
    assert once == of_one
    np.testing.assert_array_equal(
        both.details.member_precision[0], alone.details.member_precision[0]
    )
    # Draws depend on a member's place: behind one of other steps, it has its own
    # program.
    other = few._replace(name="other", num_steps=3)
    (full, _), (fewer, _) = (
        attacked(other, many),
        attacked(other, many._replace(restarts=1)),
    )
    of_many = (f.details.member_precision[1] for f in (both, full, fewer))
    shared, separate, of_few = of_many
    np.testing.assert_array_equal(shared, separate)
    assert shared.mean() < of_few.mean()
