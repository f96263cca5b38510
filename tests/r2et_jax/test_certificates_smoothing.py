"""Randomised smoothing against maps whose smoothed map is known in closed form."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from r2et_jax import adapters, subject
from r2et_jax.certificates import smoothed, smoothed_certificate, smoothing
from r2et_jax.certificates.smoothing import smoothed_counts

N, K, SIGMA = 5, 2, 0.7
RNG = np.random.default_rng(2)
# The map depends on uᵀx alone, through the interval that it lies in.
U = np.array([2.0, -1.0, 2.0]) / 3
EDGES = np.array([-1.5, -0.4, 0.3, 1.6])
TABLE = RNG.permuted(np.tile(np.arange(1.0, N + 1), (5, 1)), axis=1)
TOPS = np.argsort(-TABLE, axis=1)[:, :K]


def steps(x):
    """The map of one input [3]."""
    place = jnp.sum((x @ jnp.asarray(U, x.dtype)) > jnp.asarray(EDGES, x.dtype))
    return jnp.asarray(TABLE, x.dtype)[place]


def exact(t, sigma=SIGMA, edges=EDGES, tops=TOPS, n=N):
    """p at inputs with uᵀx = t [...], by normal CDFs [..., n]."""
    ends = stats.norm.cdf((np.r_[-np.inf, edges, np.inf] - t[..., None]) / sigma)
    mass = np.diff(ends)
    return sum(
        mass[..., [j]] * np.isin(np.arange(n), tops[j]) for j in range(len(tops))
    )


def counted(t, num_samples, rng, k=K, **parts):
    """Counts of inputs at t [m], drawn by NumPy."""
    edges = parts.get("edges", EDGES)
    tops, n = parts.get("tops", TOPS), parts.get("n", N)
    drawn = t[:, None] + SIGMA * rng.normal(size=(len(t), num_samples))
    place = np.searchsorted(edges, drawn)
    counts = np.stack(
        [np.isin(tops, i).any(axis=1)[place].sum(axis=1) for i in range(n)], axis=1
    )
    zeros = np.zeros(len(t), int)
    return smoothing.SmoothedCounts(
        counts, num_samples, zeros, t[:, None] * U, k, SIGMA, np.zeros(2, np.uint32)
    )


def worst_overlap(t, features, epsilon, size):
    """The least overlap of the sets with the top of p over the ball, on a fine grid.

    p depends on uᵀx′ alone, which takes all values up to ε from t.
    """
    moved = t[:, None] + np.linspace(-epsilon, epsilon, 161)
    order = np.argsort(-exact(moved), axis=-1, kind="stable")[..., :size]
    same = order[..., :, None] == features[:, None, None, :]
    return same.any(axis=-1).mean(axis=-1).min(axis=1)


@pytest.mark.parametrize("form", smoothed.FORMS)
@pytest.mark.parametrize("interval", smoothed.INTERVALS)
@pytest.mark.parametrize("size", [2, 4])
def test_no_input_of_the_ball_shares_less(form, interval, size):
    t = np.linspace(-2.5, 2.5, 81)
    tally = counted(t, 20_000, np.random.default_rng(0))
    shared = []
    for epsilon in (0.05, 0.1, 0.3, 0.6):
        made = smoothed_certificate(
            tally, epsilon=epsilon, k=size, form=form, interval=interval
        )
        worst = worst_overlap(t, made.features, epsilon, size)
        assert (made.precision <= worst + 1e-12).all()
        shared.append(made.precision.mean() - max(0, 2 * size - N) / size)
    assert (np.diff(shared) <= 0).all()
    assert shared[0] > (0.1 if form == "levine" else 0.04)  # not vacuous


def test_levine_is_the_published_rule():
    n, q, size, confidence, epsilon = 7, 300, 4, 0.95, 0.11
    rng = np.random.default_rng(4)
    counts = rng.binomial(q, rng.beta(0.5, 0.5, size=(60, n)))
    made = smoothed_certificate(
        smoothing.SmoothedCounts(counts, q, np.zeros(60, int), None, 3, SIGMA, None),
        epsilon=epsilon,
        k=size,
        confidence=confidence,
        interval="hoeffding",
    )
    c = np.sqrt(np.log(2 * n / 0.05) / (2 * q))
    assert c == pytest.approx(0.0969, abs=1e-4)
    seen = set()
    for row, precision in zip(counts, made.precision, strict=True):
        m = np.sort(row / q)[::-1]
        largest = 0
        for i in range(1, size + 1):
            if 2 * size - i + 1 > n:
                largest = i
            elif m[i - 1] - c > 0:
                low = stats.norm.cdf(stats.norm.ppf(m[i - 1] - c) - 2 * epsilon / SIGMA)
                if low - c > m[2 * size - i]:
                    largest = i
        assert precision == largest / size
        seen.add(largest)
    assert seen == {2, 3, 4}


def test_intervals_are_clopper_and_pearson():
    lower, upper = smoothed._intervals(
        np.array([[0, 1, 37, 99, 100]]), 100, 0.02, "clopper_pearson"
    )
    for i, count in enumerate((0, 1, 37, 99, 100)):
        expected = stats.binomtest(count, 100).proportion_ci(1 - 0.02 / 5, "exact")
        np.testing.assert_allclose([lower[0, i], upper[0, i]], expected, atol=1e-12)


# Two features and one edge at 0: p = Φ(t/σ) and 1 − p, whose order changes at −t.
HALVES = {"edges": np.array([0.0]), "tops": np.array([[1], [0]]), "n": 2, "k": 1}


def wrong_share(epsilon, confidence=0.9, runs=2000, **options):
    """Of repeated draws at t = .3, those that certify beyond the true radius .3."""
    tally = counted(np.full(runs, 0.3), 500, np.random.default_rng(1), **HALVES)
    made = smoothed_certificate(
        tally, epsilon=epsilon, confidence=confidence, **options
    )
    return made.precision.mean()


@pytest.mark.parametrize("interval", smoothed.INTERVALS)
def test_certificates_are_wrong_as_seldom_as_they_say(interval):
    assert wrong_share(0.301, interval=interval) <= 0.1
    # Levine's form is exact here: only the draws separate it from the true radius.
    assert wrong_share(0.1, interval=interval) > 0.9
    # Intervals of five features at once, and their labels.
    t = np.full(1500, 0.1)
    tally = counted(t, 200, np.random.default_rng(3))
    made = smoothed_certificate(
        tally, epsilon=0, confidence=0.8, interval=interval, threshold=0.6
    )
    p = exact(t)
    fails = ((made.lower > p) | (made.upper < p)).any(axis=1)
    assert fails.mean() <= 0.2 + 3 * 0.01
    said_wrong = (made.labels == 1) & (p <= 0.6) | (made.labels == -1) & (p >= 0.4)
    assert said_wrong.any(axis=1).mean() <= 0.2 and np.ptp(made.labels) == 2


@pytest.mark.parametrize("damage", ["no c", "half the move"])
def test_unsound_rules_are_caught(damage, monkeypatch):
    if damage == "no c":

        def plain(counts, num_samples, error, interval):
            return 2 * (counts / num_samples,)

        monkeypatch.setattr(smoothed, "_intervals", plain)
        assert wrong_share(0.301) > 0.2
    else:
        whole = smoothed._levine
        monkeypatch.setattr(smoothed, "_levine", lambda *args: 2 * whole(*args))
        assert wrong_share(0.301) > 0.2


def test_labels_hold_up_to_their_radius():
    t = np.linspace(-2.5, 2.5, 41)
    tally = counted(t, 5000, np.random.default_rng(0))
    made = smoothed_certificate(tally, epsilon=0.0)
    assert made.label_radius == pytest.approx(SIGMA * 0.6744898, abs=1e-6)
    assert set(np.unique(made.labels)) == {-1, 0, 1}
    for share in np.linspace(-1, 1, 21):
        radius = made.feature_radii
        for i in range(N):
            p = exact(t + share * radius[:, i])[:, i]
            at_x = exact(t)[:, i]
            assert (((p > 0.5) == (at_x > 0.5)) | (radius[:, i] == 0)).all()
        p = exact(t + share * made.label_radius)
        assert (p[made.labels == 1] > 0.5).all() and (p[made.labels == -1] < 0.5).all()


@pytest.mark.parametrize("order", [0.5, 2.0, 6.0])
def test_the_renyi_form_is_the_least_divergence(order, monkeypatch):
    """Pair by pair equal, the least over all laws, by a general optimiser."""
    p = np.array([0.95, 0.6, 0.35, 0.1])
    law, pairs = p / p.sum(), ((0, 3), (1, 2))
    monkeypatch.setattr(smoothed, "_ORDERS", np.array([order]))
    radii = smoothed._renyi(p[None], p[None], 2, p.sum())[0]

    def divergence(q):
        return np.log(np.sum(q**order * law ** (1 - order))) / (order - 1)

    for radius, swapped in zip(radii, (pairs, pairs[1:]), strict=True):
        rules = [{"type": "eq", "fun": lambda q: q.sum() - 1}]
        rules += [
            {"type": "ineq", "fun": lambda q, a=a, b=b: q[b] - q[a]} for a, b in swapped
        ]
        solved = optimize.minimize(
            divergence, np.full(4, 0.25), constraints=rules, bounds=4 * [(1e-4, 1)]
        )
        assert order * radius**2 / 2 == pytest.approx(solved.fun, abs=1e-5)


def draw(explain, num_samples, state=None, x=None, **options):
    x = np.array([[0.3, 0.1, 0.2], [-1, 0.5, 0.4]], np.float32) if x is None else x
    options = {"k": K, "sigma": SIGMA, "key": jax.random.key(0)} | options
    return smoothed_counts(explain, x, num_samples=num_samples, state=state, **options)


def test_counts_go_on_bit_by_bit_and_are_those_of_the_law():
    whole = draw(steps, 3000)
    part = draw(steps, 700)
    on = draw(steps, 3000, draw(steps, 701, part))
    for tally, expected in zip(on, whole, strict=True):
        np.testing.assert_array_equal(tally, expected)
    assert (draw(steps, 700, part).counts == part.counts).all()
    assert (part.counts.sum(axis=1) == 700 * K).all()
    p = exact(whole.x.astype(float) @ U)
    error = np.abs(whole.counts / 3000 - p)
    assert (error <= 4 * np.sqrt(p * (1 - p) / 3000) + 1e-6).all()
    for name, other in {
        "inputs": {"x": whole.x + 1},
        "k": {"k": 3},
        "sigma": {"sigma": 0.1},
        "key": {"key": jax.random.key(1)},
    }.items():
        with pytest.raises(ValueError, match=f"the same {name}"):
            draw(steps, 3000, part, **other)
    with pytest.raises(ValueError, match="at least the 3000 draws"):
        draw(steps, 700, whole)


def predict(x):
    return np.tanh(x @ np.array([3.0, -1.0, 0.1])) + x[:, 1]


def test_subjects_and_black_boxes_are_explained_for_the_clean_class():
    def apply(params, x):
        return jnp.stack([params @ x, 0 * x[0], x[1] ** 2])

    made = subject(apply, jnp.array([3.0, -1.0, 0.5]))
    tally = draw(made, 200)
    assert (tally.counts.sum(axis=1) == 200 * K).all() and not tally.num_nonfinite.any()
    box = adapters.black_box(predict, tally.x)
    counts = draw(box, 300, k=1).counts
    assert (counts.sum(axis=1) == 300).all() and (counts[:, 2] < 100).all()


def test_maps_that_are_not_finite_are_counted_and_told():
    tally = draw(lambda x: steps(x) + jnp.log(x[0]), 100)
    assert (tally.num_nonfinite > 10).all()
    said = str(smoothed_certificate(tally, epsilon=0.1))
    assert f"{tally.num_nonfinite.sum()} draws had a map that is not finite" in said


def test_the_certificate_says_what_it_is_about():
    tally = draw(steps, 3000)
    made = smoothed_certificate(tally, epsilon=0.05, all_inputs=True)
    text = str(made)
    assert "probability at least 0.999 over the 3000 draws" in text
    assert "all 5 features of all 2 inputs together" in text
    alone = smoothed_certificate(tally, epsilon=0.05)
    assert "each input" in str(alone) and (alone.lower >= made.lower).all()
    with pytest.raises(AttributeError):
        made.epsilon = 1.0
    for module in (smoothed, smoothing):
        assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"epsilon": -1.0}, "epsilon must be nonnegative"),
        ({"k": N}, "k must lie"),
        ({"confidence": 1.0}, r"confidence must lie in \(0, 1\), got 1.0"),
        ({"threshold": 0.4}, "threshold must lie"),
        ({"form": "cohen"}, "unknown form 'cohen'"),
        ({"interval": "wald"}, "unknown interval 'wald'"),
    ],
)
def test_what_is_out_of_range_is_named(options, match):
    tally = counted(np.zeros(1), 10, RNG)
    with pytest.raises(ValueError, match=match):
        smoothed_certificate(tally, **{"epsilon": 0.1} | options)


def test_inputs_that_cannot_be_drawn_around_are_named():
    x = np.zeros((1, 3), np.float32)
    for options, match in (
        ({"x": x[0]}, "batch of inputs"),
        ({"x": x.astype(int)}, "of dtype int64"),
        ({"x": x + np.nan}, "x must be finite"),
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"k": N}, "k must lie"),
    ):
        with pytest.raises(ValueError, match=match):
            draw(steps, 10, **options)
    with pytest.raises(ValueError, match="a subject or a function"):
        draw(x, 10)
    assert smoothing.smoothed_counts is smoothed_counts
