"""Explanations and metrics against Captum's, where that is installed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import metrics, saliency, score
from r2et_jax.subject import subject
from r2et_jax.threat import threat_model

pytestmark = [pytest.mark.slow, pytest.mark.standard_promotion]
torch = pytest.importorskip("torch", reason="PyTorch is not installed")
captum = pytest.importorskip("captum", reason="Captum is not installed")
N, HIDDEN, B = 5, 8, 4
DRAW = np.random.default_rng(0)
X, STARTS = DRAW.normal(size=(3, N)), DRAW.normal(size=(B, N))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def made():
    """A network in PyTorch, and the same one as apply(params, x)."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(N, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, 3)
    ).double()
    params = [jnp.asarray(p.detach().numpy()) for p in net.parameters()]

    def apply(params, x, /):
        w, b, v, c = params
        return v @ jnp.tanh(w @ x + b) + c

    return net, apply, params


def mapped(explain, params, x, target, **keywords):
    return np.asarray(
        jax.vmap(lambda x: explain(params, x, target, **keywords))(jnp.asarray(x))
    )


def tensor(array):
    return torch.tensor(array, requires_grad=True)


@pytest.mark.parametrize("size", [None, 7])
def test_integrated_gradients_and_their_delta(size):
    from captum.attr import IntegratedGradients

    net, apply, params = made()
    theirs, their_delta = IntegratedGradients(net).attribute(
        tensor(X),
        baselines=torch.tensor(STARTS[:1]),
        target=2,
        n_steps=20,
        method="riemann_middle",
        internal_batch_size=size,
        return_convergence_delta=True,
    )
    logit = score.logit(apply)
    explain = saliency.integrated_gradients(
        logit, baseline=STARTS[0], num_points=20, signed=True, chunk_size=size
    )
    maps = mapped(explain, params, X, 2)
    # Captum computes the weights of the points in float32.
    np.testing.assert_allclose(maps, theirs.detach().numpy(), rtol=1e-6)
    delta = saliency.convergence_delta(logit, baseline=STARTS[0])
    deltas = [delta(params, x, 2, row) for x, row in zip(X, maps, strict=True)]
    np.testing.assert_allclose(deltas, their_delta.detach().numpy(), atol=1e-7)
    assert np.abs(deltas).max() > 1e-5


def test_gradients():
    from captum.attr import InputXGradient, Saliency

    net, apply, params = made()
    logit = score.logit(apply)
    for explain, theirs in (
        (saliency.gradient, Saliency(net).attribute(tensor(X), target=1)),
        (
            saliency.gradient_times_input,
            InputXGradient(net).attribute(tensor(X), target=1).abs(),
        ),
    ):
        maps = mapped(explain(logit, normalize=False), params, X, 1)
        np.testing.assert_allclose(maps, theirs.detach().numpy(), rtol=1e-9)


def test_expected_gradients_have_the_expectation_of_gradient_shap():
    from captum.attr import GradientShap

    net, apply, params = made()
    torch.manual_seed(1)
    np.random.seed(1)  # Captum draws the way by NumPy
    theirs = GradientShap(net).attribute(
        tensor(X),
        baselines=torch.tensor(STARTS),
        target=0,
        n_samples=20_000,
        stdevs=0.0,
    )
    explain = saliency.expected_gradients(
        score.logit(apply), baselines=STARTS, num_samples=4_000, signed=True
    )
    maps = mapped(explain, params, X, 0, key=jax.random.key(0))
    np.testing.assert_allclose(maps, theirs.detach().numpy(), atol=0.02)
    assert np.abs(maps).max() > 0.2


def test_the_largest_change_is_captums_at_the_same_inputs():
    from captum.attr import Saliency
    from captum.metrics import sensitivity_max

    net, apply, params = made()
    # Captum explains a logit: of one output the log-odds are that.
    first_logit = functools.partial(_first_logit, apply)
    plain = functools.partial(saliency.gradient, normalize=False)
    examined = subject(first_logit, params, explainer=plain)
    largest = metrics.sensitivity_max(
        examined, X, threat_model("linf", 0.3), key=jax.random.key(0)
    )

    def explain(inputs, **_):
        (given,) = inputs if isinstance(inputs, tuple) else (inputs,)
        with torch.enable_grad():
            maps = Saliency(net).attribute(given.detach().requires_grad_(), target=0)
        return (maps,)

    def theirs(perturb_func, **keywords):
        return sensitivity_max(
            explain,
            torch.tensor(X),
            perturb_func=perturb_func,
            norm_ord=2,
            **keywords,
        ).numpy()

    reached = theirs(lambda _: torch.tensor(largest.perturbed), n_perturb_samples=1)
    np.testing.assert_allclose(largest.value, reached, rtol=1e-6)

    def uniform(x):
        return x + 0.3 * (2 * torch.rand_like(x) - 1)

    drawn = theirs(uniform, n_perturb_samples=200)
    assert (largest.value > drawn).all()


def _first_logit(apply, params, x, /):
    return apply(params, x)[:1]


@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity(normalize):
    from captum.metrics import infidelity

    net, apply, params = made()
    num, maps = 40, DRAW.normal(size=X.shape)

    def perturb(x, key):
        return x + 0.5 * jax.random.normal(key, x.shape, x.dtype)

    measure = metrics.infidelity(
        score.logit(apply), perturb, num_samples=num, normalize=normalize
    )
    key = jax.random.key(3)
    drawn = np.stack(
        [
            [np.asarray(perturb(jnp.asarray(x), k)) for k in jax.random.split(key, num)]
            for x in X
        ]
    )

    def same_draws(inputs):
        points = torch.tensor(drawn.reshape(-1, N))
        return inputs - points, points

    theirs = infidelity(
        net,
        same_draws,
        torch.tensor(X),
        torch.tensor(maps),
        target=2,
        n_perturb_samples=num,
        normalize=normalize,
    )
    measured = [
        measure(params, jnp.asarray(x), 2, jnp.asarray(row), key=key)
        for x, row in zip(X, maps, strict=True)
    ]
    np.testing.assert_allclose(measured, theirs.detach().numpy(), rtol=1e-6)


def test_a_noise_tunnel_has_the_expectation_of_smooth_grad():
    from captum.attr import NoiseTunnel, Saliency

    net, apply, params = made()
    torch.manual_seed(1)
    theirs = NoiseTunnel(Saliency(net)).attribute(
        tensor(X), nt_type="smoothgrad", nt_samples=20_000, stdevs=1.5, target=1
    )
    explain = saliency.smooth_grad(
        score.logit(apply), sigma=1.5, num_samples=20_000, normalize=False
    )
    maps = mapped(explain, params, X, 1, key=jax.random.key(0))
    np.testing.assert_allclose(maps, theirs.detach().numpy(), atol=2e-3)
    plain = mapped(saliency.gradient(score.logit(apply), normalize=False), params, X, 1)
    assert np.abs(maps - plain).max() > 0.02  # the noise tells


@pytest.mark.parametrize("baseline", [0.0, tuple(STARTS[0].tolist())])
def test_features_that_are_taken_away(baseline):
    from captum.attr import FeatureAblation, Occlusion

    net, apply, params = made()
    explain = saliency.occlusion(score.logit(apply), baseline=baseline, normalize=False)
    maps = mapped(explain, params, X, 1)
    given = {"baselines": torch.tensor([baseline]) * torch.ones(1, N), "target": 1}
    for theirs in (
        FeatureAblation(net).attribute(torch.tensor(X), **given),
        Occlusion(net).attribute(torch.tensor(X), (1,), **given),
    ):
        np.testing.assert_allclose(maps, theirs.abs().numpy(), rtol=1e-6)
