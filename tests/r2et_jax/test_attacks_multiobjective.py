"""Multi-objective descent against its unseparated form, and the facts of its theory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from r2et_jax import attacks, saliency, score
from r2et_jax.attacks.multiobjective import ARMIJO, GAP_SHARE
from r2et_jax.attacks.multiobjective_trace import trace_descent
from r2et_jax.attacks.smooth_terms import smoothed_gradient
from r2et_jax.threat import contains, threat_model

N, K, M = 6, 2, 5
SIGMA = 0.4
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def net(params, x, /):
    first, bias, second = params
    return second @ jnp.tanh(first @ x + bias)


def parameters(seed=0, num_outputs=1):
    rng = np.random.default_rng(seed)
    shapes = (10, N), (10,), (num_outputs, 10)
    return tuple(jnp.asarray(rng.normal(size=shape)) for shape in shapes)


def inputs(m=M, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(m, N)))


def explain(params, x, target, /):
    return smoothed_gradient(score.log_odds(net), mu=0.05, normalize=False)(
        params, x, target
    )


@jax.jit
def clean_class(params, x):
    return score.predicted_class(net(params, x))


def in_numpy(fn):
    """Compiled, with NumPy arrays for results."""
    compiled = jax.jit(fn)
    return lambda *args: jax.tree.map(np.asarray, compiled(*args))


explained = in_numpy(explain)
jacobian = in_numpy(jax.jacrev(explain, argnums=1))


@functools.lru_cache
def stepper(curvature):
    # A first length that is too long, so that it has to be halved.
    attack = attacks.multiobjective_attack(
        net,
        explain,
        k=K,
        project=False,
        curvature=curvature,
        initial_step=64.0 if curvature == "identity" else 1.0,
        armijo=SIGMA,
    )

    def init(params, x, threat):
        return attack.init(params, x, clean_class(params, x), threat, key=KEY)

    return jax.jit(init), jax.jit(attack.step)


@functools.lru_cache
def traced(num_steps=200, rule="free", project=False, **keywords):
    attack = attacks.multiobjective_attack(
        net, explain, k=K, project=project, **keywords
    )

    def trace(params, x, threat):
        target = clean_class(params, x)
        return trace_descent(
            attack, params, x, target, threat, key=KEY, num_steps=num_steps
        )

    return jax.jit(jax.vmap(trace, (None, 0, None)))


@functools.lru_cache
def run(num_steps=200, rule="free", epsilon=1.0, penalty=1.0, **keywords):
    threat = threat_model("l2", epsilon, prediction=rule, penalty=penalty)
    result = traced(num_steps, rule, **keywords)(parameters(), inputs(), threat)
    return jax.tree.map(np.asarray, result)


# The direction and the length.


def shortest(rows):
    """The square of the shortest vector in the hull of rows, by a general solver."""
    m = len(rows)
    solved = optimize.minimize(
        lambda a: a @ rows @ rows.T @ a,
        np.full(m, 1 / m),
        jac=lambda a: 2 * rows @ (a @ rows),
        bounds=[(0, 1)] * m,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    return solved.fun


def gaps_of(values, top):
    mask = np.zeros(len(values), bool)
    mask[top] = True
    return (values[mask][:, None] - values[~mask][None]).ravel()


def test_direction_and_length_by_hand():
    params, x = parameters(), inputs()
    init, step = stepper("identity")
    for i in range(M):
        target = clean_class(params, x[i])
        state = step(params, *init(params, x[i], threat_model()))
        last = state.optimizer_state
        values = explained(params, x[i], target)
        rows = jacobian(params, x[i], target)
        top = np.argsort(-values)[:K]
        rest = np.setdiff1d(np.arange(N), top)
        pairs = np.stack([rows[a] - rows[b] for a in top for b in rest])
        best = 0.5 * shortest(pairs)
        norm, t = last.direction_norm, last.step_size
        assert -1e-9 <= 0.5 * norm**2 - best <= last.duality_gap + 1e-9
        assert last.duality_gap <= GAP_SHARE * norm**2
        d = np.asarray(state.perturbed - x[i]) / t
        np.testing.assert_allclose(np.linalg.norm(d), norm, rtol=1e-9)
        slope = (pairs @ d).max()
        np.testing.assert_allclose(last.slope, slope, rtol=1e-7)
        assert slope <= -(1 - GAP_SHARE) * norm**2
        # Armijo's rule, and that twice the length was refused.
        worst = [
            gaps_of(explained(params, x[i] + share * d, target) - values, top).max()
            for share in (t, 2 * t)
        ]
        np.testing.assert_allclose(last.worst_change, worst[0], rtol=1e-6)
        assert t == 64 / 2**last.num_halvings < 64
        assert worst[0] <= SIGMA * t * slope
        assert worst[1] > SIGMA * 2 * t * slope


@pytest.mark.parametrize("curvature", ["identity", "barzilai_borwein"])
def test_every_objective_falls_at_every_accepted_step(curvature):
    params, x = parameters(), inputs()
    init, step = stepper(curvature)
    moves = 0
    for i in range(M):
        target = clean_class(params, x[i])
        context, state = init(params, x[i], threat_model())
        before = explained(params, x[i], target)
        top = np.argsort(-before)[:K]
        for _ in range(25):
            state = step(params, context, state)
            after = explained(params, state.perturbed, target)
            accepted = state.optimizer_state.step_size > 0
            assert accepted == (gaps_of(after, top) < gaps_of(before, top)).all()
            moves += int(accepted)
            before = after
            assert 1e-3 <= state.optimizer_state.curvature <= 1e3
            if curvature == "identity":
                assert state.optimizer_state.curvature == 1
    assert moves > 80


def test_first_secant_by_hand():
    """On I = (½q·x², 0), whose weighted gradient changes by q·s, β is q."""

    def bowl(params, x, target, /):
        return jnp.stack([5 + 1.5 * x @ x, 0 * x[0]])

    attack = attacks.multiobjective_attack(
        lambda params, x: x, bowl, k=1, project=False, curvature="barzilai_borwein"
    )
    context, state = attack.init(None, jnp.ones(2), 1, threat_model(), key=KEY)
    step = jax.jit(attack.step)
    state = step(None, context, state)
    assert state.optimizer_state.curvature == 1
    state = step(None, context, state)
    np.testing.assert_allclose(state.optimizer_state.curvature, 3, rtol=1e-12)
    np.testing.assert_allclose(state.perturbed, np.zeros(2), atol=1e-12)


# The facts.


def test_rate_is_bounded_by_armijo_and_by_one_over_root_t():
    result = run()
    trace = result.trace
    lowest = np.minimum.accumulate(trace.direction_norm, axis=1)
    total = np.cumsum(trace.step_size, axis=1)
    bound = trace.least_decrease[:, 1:] / (ARMIJO * (1 - GAP_SHARE) * total[:, :-1])
    assert (lowest[:, :-1] ** 2 <= bound * (1 + 1e-9)).all()
    # Steps are never shorter than a constant over the Lipschitz constant: √t·‖d‖ stays
    # below its early values.
    t = np.arange(1, 201)
    scaled = np.sqrt(t) * lowest
    assert (scaled[:, 100:].max(axis=1) < scaled[:, :100].max(axis=1)).all()
    certified = trace.duality_gap <= GAP_SHARE * trace.direction_norm**2
    assert certified[trace.direction_norm > 1e-4].all()
    assert (trace.worst_change <= 0).all()
    assert (np.diff(trace.largest_gap, axis=1) <= 0).all()
    assert (np.diff(trace.smallest_gap, axis=1) <= 0).all()


def test_trace_agrees_with_the_map_at_its_ends():
    result = run()
    params, x = parameters(), inputs()
    for i in range(M):
        values = explained(params, x[i], clean_class(params, x[i]))
        np.testing.assert_allclose(result.initial_map[i], values, rtol=1e-12)
        ordered = np.sort(values)
        trace = result.trace
        np.testing.assert_allclose(
            trace.smallest_gap[i, 0], ordered[-K] - ordered[-K - 1], rtol=1e-9
        )
        np.testing.assert_allclose(
            trace.largest_gap[i, 0], ordered[-1] - ordered[0], rtol=1e-9
        )
        np.testing.assert_allclose(trace.least_decrease[i, 0], 0, atol=1e-14)
        left = trace.precision[i] < 1
        epoch = np.argmax(left) + 1 if left.any() else 0
        assert result.manipulation_epoch[i] == epoch
        # The smoothed map ranks as |g| does: its smallest gap tells the same.
        assert (left[:-1] == (trace.smallest_gap[i, 1:] < 0)).all()
    assert (result.manipulation_epoch > 0).any()


def quadratic(params, x, /):
    matrix, vector = params
    return (0.5 * x @ matrix @ x + vector @ x)[None]


def test_a_larger_gap_needs_more_steps():
    """s = ½x₀² − ½x₁² + bᵀx: the gap |x₀ + b₀| − |b₁ − x₁| closes along a line."""
    explained = saliency.gradient(score.log_odds(quadratic), normalize=False)
    attack = attacks.multiobjective_attack(
        quadratic, explained, k=1, project=False, max_length=0.1
    )
    gaps = np.array([0.5, 1.0, 2.0, 4.0])

    def steps_of(gap):
        params = jnp.diag(jnp.array([1.0, -1.0])), jnp.stack([gap + 8, 8 + 0 * gap])
        return trace_descent(
            attack, params, jnp.zeros(2), 1, threat_model(), key=KEY, num_steps=50
        )

    result = jax.jit(jax.vmap(steps_of))(jnp.asarray(gaps))
    np.testing.assert_allclose(result.trace.smallest_gap[:, 0], gaps)
    # A step of 0.1 along (−1, 1)/√2 closes √2 · 0.1.
    expected = np.floor(gaps / (0.1 * np.sqrt(2))) + 1
    np.testing.assert_array_equal(result.manipulation_epoch, expected)


CENTERS = np.array([[0.0, 0.0], [3.0, 0.0]])


def bowls(params, x, target, /):
    """F_0j = 100 + ‖x − centre_j‖²: Pareto-critical exactly between the centres."""
    level = jnp.sum((x - jnp.asarray(CENTERS)) ** 2, axis=1)
    return jnp.concatenate([jnp.full(1, 100.0), -level])


def test_it_stops_at_pareto_critical_points():
    attack = attacks.multiobjective_attack(
        lambda params, x: x, bowls, k=1, project=False
    )
    starts = jnp.array([[1.0, 0.0], [0.0, 0.0], [1.0, 2.0], [-4.0, 1.0], [2.0, -7.0]])

    def stopped_at(x):
        return trace_descent(attack, None, x, 1, threat_model(), key=KEY, num_steps=100)

    result = jax.jit(jax.vmap(stopped_at))(starts)
    assert result.converged.all() and not result.stalled.any()
    np.testing.assert_array_equal(result.num_steps[:2], [0, 0])
    np.testing.assert_array_equal(result.last[:2], starts[:2])
    assert (result.num_steps[2:] > 0).all()
    np.testing.assert_allclose(result.last[2:, 1], 0, atol=1e-6)
    x0 = np.asarray(result.last[2:, 0])
    assert (x0 > -1e-6).all() and (x0 < 3 + 1e-6).all()
    before = np.sum((np.asarray(starts)[:, None] - CENTERS) ** 2, axis=2)
    after = np.sum((np.asarray(result.last)[:, None] - CENTERS) ** 2, axis=2)
    assert (after[2:] < before[2:]).all()


def test_a_kinked_network_without_curvature_is_critical_everywhere():
    def kinked(params, x, /):
        first, bias, second = params
        return second @ jax.nn.relu(first @ x + bias)

    explained = saliency.gradient(score.log_odds(kinked), normalize=False)
    attack = attacks.multiobjective_attack(kinked, explained, k=K)
    args = parameters(), inputs()[0], 1, threat_model()

    @jax.jit
    def first_step(params, x, target, threat):
        context, state = attack.init(params, x, target, threat, key=KEY)
        return attack.step(params, context, state)

    state = first_step(*args)
    assert state.num_vanished == 1 and state.optimizer_state.converged
    np.testing.assert_array_equal(state.perturbed, args[1])


# Constraints, the runner, arguments.


def test_projected_steps_stay_admissible_and_still_descend():
    """In the runner, too, where they are traced in chunks of the Jacobian."""
    params, x = parameters(), jnp.clip(inputs(), -1.0, 1.5)
    threat = threat_model("l2", 0.5, lower=-1.5, upper=2.0, frozen=[2], num_features=N)
    result = traced(20, project=True, jacobian_chunk=4)(params, x, threat)
    assert jax.vmap(contains, (None, 0, 0))(threat, x, result.last).all()
    np.testing.assert_array_equal(result.last[:, 2], x[:, 2])
    assert (result.num_steps > 0).all()
    assert (result.trace.worst_change <= 0).all()
    assert (result.trace.least_decrease[:, 1:] > 0).all()
    attack = attacks.multiobjective_attack(net, explain, k=K)
    run = attacks.compile_attack(attack, num_steps=20, track_every=1)
    ran = run(params, x, threat, key=KEY)
    np.testing.assert_allclose(ran.details.last, result.last, atol=1e-9)
    np.testing.assert_array_equal(ran.manipulated_at, result.manipulation_epoch)
    np.testing.assert_allclose(
        ran.details.objective, result.trace.smallest_gap, atol=1e-9
    )


@pytest.mark.parametrize("rule", ["same_class", "penalized"])
def test_predictions_are_kept_by_the_penalty(rule):
    params, x = parameters(), inputs()

    def shift(result):
        logits = jax.vmap(net, (None, 0))(params, jnp.asarray(result.last))
        before = jax.vmap(net, (None, 0))(params, x)
        change = score.class_probabilities(logits) - score.class_probabilities(before)
        return np.linalg.norm(change, axis=1)

    free, kept = run(num_steps=200), run(num_steps=200, rule=rule, penalty=50.0)
    if rule == "same_class":
        assert free.class_changed.any() and not kept.class_changed.any()
    else:
        assert (shift(free) > 0.1).any() and (shift(kept) <= 0.1 + 1e-3).all()
    # The border is followed, not only avoided: the gaps fall on.
    assert (kept.trace.least_decrease[:, -1] > 0).all()
    assert (kept.manipulation_epoch > 0).any()


def test_direction_under_a_violated_constraint_is_that_of_the_whole_problem():
    """Against a general solver of min_d max F'd + ν max(0, c + ∇cᵀd) + ½‖d‖²."""
    nu, params = 3.0, parameters()
    x = inputs()[0]
    target = clean_class(params, x)
    attack = attacks.multiobjective_attack(
        net, explain, k=K, project=False, prediction_tolerance=0.05, gap_share=1e-9
    )
    threat = threat_model(prediction="penalized", penalty=nu)
    context, state = attack.init(params, x, target, threat, key=KEY)
    state = state._replace(perturbed=x + 0.3)
    rows = jacobian(params, x + 0.3, target)
    top = np.asarray(context.reference.mask)
    pairs = np.stack([a - b for a in rows[top] for b in rows[~top]])

    def change(x):
        moved = score.class_probabilities(net(params, x))
        clean = score.class_probabilities(context.clean_logits)
        return jnp.sqrt(jnp.sum((moved - clean) ** 2)) - 0.05

    level, slope = map(np.asarray, jax.value_and_grad(change)(x + 0.3))
    assert level > 0

    def model(z):
        return z[0] + nu * z[1] + 0.5 * z[2:] @ z[2:]

    solved = optimize.minimize(
        model,
        np.concatenate([[0, level], np.zeros(N)]),
        constraints=[
            {"type": "ineq", "fun": lambda z: z[0] - pairs @ z[2:]},
            {"type": "ineq", "fun": lambda z: z[1] - level - slope @ z[2:]},
            {"type": "ineq", "fun": lambda z: z[1]},
        ],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    last = jax.jit(attack.step)(params, context, state).optimizer_state
    np.testing.assert_allclose(-last.slope_vector, solved.x[2:], atol=1e-5)
    expected = solved.x[0] + nu * (solved.x[1] - level)
    np.testing.assert_allclose(last.slope, expected, atol=1e-5)


@pytest.mark.parametrize(
    "keywords, message",
    [
        ({"curvature": "newton"}, "newton"),
        ({"armijo": 1.0}, "armijo"),
        ({"armijo": 0.0}, "armijo"),
        ({"growth": 0.5}, "growth"),
        ({"initial_step": -1.0}, "initial_step"),
        ({"max_length": 0.0}, "max_length"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"prediction_tolerance": -0.1}, "prediction_tolerance"),
        ({"max_halvings": 1.5}, "max_halvings"),
    ],
)
def test_wrong_arguments(keywords, message):
    with pytest.raises(ValueError, match=message):
        attacks.multiobjective_attack(net, explain, k=K, **keywords)


def test_k_out_of_range():
    attack = attacks.multiobjective_attack(net, explain, k=N)
    with pytest.raises(ValueError, match="k must lie"):
        trace_descent(
            attack, parameters(), inputs()[0], 1, threat_model(), key=KEY, num_steps=3
        )
