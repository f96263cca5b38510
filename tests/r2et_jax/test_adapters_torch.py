"""PyTorch's and Hugging Face's models run by JAX, against PyTorch itself."""

import sys

import jax
import numpy as np
import pytest

import r2et_jax as r2
from r2et_jax import adapters, programs, score
from r2et_jax.audit.examples import examples
from r2et_jax.audit.layout import as_rows
from r2et_jax.programs.transform import has_kinks
from tests.r2et_jax import foreign

pytestmark = pytest.mark.standard_promotion

DRAW = np.random.default_rng(0)


def mlp(torch):
    return torch.nn.Sequential(
        torch.nn.Linear(6, 16),
        torch.nn.LeakyReLU(),
        torch.nn.Linear(16, 8),
        torch.nn.GELU(),
        torch.nn.Linear(8, 3),
    ), (6,)


def cnn(torch):
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(4, 4, 2),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(4, 3),
    )
    with torch.no_grad():
        net[1].running_mean.uniform_(-0.3, 0.3)
        net[1].running_var.uniform_(0.5, 2)
    return net, (2, 8, 8)


def transformer(torch):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = torch.nn.TransformerEncoder(
                layer, 2, enable_nested_tensor=False
            )
            self.head = torch.nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.encoder(x).mean(dim=1))

    return Net(), (5, 8)


def bert(torch):
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed"
    )
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=12,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config), (5, 8)


BUILDS = [mlp, cnn, transformer, bert]


@pytest.fixture(scope="module", params=BUILDS, ids=lambda build: build.__name__)
def made(request):
    torch = foreign.library("torch")
    torch.manual_seed(0)
    with jax.numpy_dtype_promotion("standard"):
        net, shape = request.param(torch)
        x = DRAW.normal(size=(3, *shape)).astype(np.float32)
        argument = "inputs_embeds" if request.param is bert else None
        subject = adapters.torch(net, x, argument=argument)

    def call(x):
        out = net.eval()(x) if argument is None else net.eval()(**{argument: x})
        return getattr(out, "logits", out)

    return torch, call, subject, x


def test_outputs_and_gradients_are_torchs(made):
    torch, call, subject, x = made
    values = jax.vmap(subject.apply, (None, 0))(subject.params, x)
    inputs = torch.tensor(x, requires_grad=True)
    expected = call(inputs)
    scale = float(expected.detach().abs().max())
    np.testing.assert_allclose(values, expected.detach().numpy(), atol=1e-5 * scale)
    target = np.asarray(score.predicted_class(values))
    rows = torch.arange(len(x))
    chosen = expected[rows, torch.tensor(target.astype(int))]
    others = expected.masked_fill(
        torch.nn.functional.one_hot(
            torch.tensor(target.astype(int)), values.shape[1]
        ).bool(),
        -torch.inf,
    )
    (chosen - torch.logsumexp(others, dim=1)).sum().backward()
    expected = np.abs(inputs.grad.numpy())
    expected /= expected.reshape(len(x), -1).sum(1).reshape(-1, *[1] * (x.ndim - 1))
    maps = r2.explain(subject, x)
    np.testing.assert_allclose(maps, expected, atol=1e-5 * expected.max() + 1e-7)


def test_second_derivatives_are_torchs(made):
    torch, call, subject, x = made
    direction = DRAW.normal(size=x.shape[1:]).astype(np.float32)

    def first(x):
        return subject.apply(subject.params, x)[0]

    _, product = jax.jvp(jax.grad(first), (x[0],), (direction,))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        _, expected = torch.autograd.functional.hvp(
            lambda x: call(x[None])[0, 0], torch.tensor(x[0]), torch.tensor(direction)
        )
    scale = max(float(expected.abs().max()), 1e-3)
    np.testing.assert_allclose(product, expected.numpy(), atol=1e-4 * scale)


# Primitives that make the kinks; GELU and softmax make none.
KINKS = {
    "mlp": {"select_n": 1},
    "cnn": {"max": 2, "reduce_window_max": 1},
    "transformer": {"max": 2},
    "bert": {},
}


def test_kinks_are_found_in_its_program(made, request):
    _, _, subject, x = made
    name = request.node.callspec.params["made"].__name__
    contents = programs.describe(subject.apply, subject.params, x[0])
    assert (contents.kinks, contents.left) == (KINKS[name], {})
    assert not has_kinks(subject.stand_in(3.0), subject.params, x[0])


def test_a_pooled_network_has_the_stand_in_that_is_written():
    """ReLU → softplus, max pooling → log-mean-exp of its tiles, of sharpness ρ."""
    torch = foreign.library("torch")
    torch.manual_seed(1)
    net, shape = cnn(torch)
    x, rho = DRAW.normal(size=(3, *shape)).astype(np.float32), 4.0
    first, norm, _, _, second, _, average, flat, _, last = net.eval()

    def soft(values):
        return torch.nn.functional.softplus(values, beta=rho)

    tiles = soft(norm(first(torch.tensor(x)))).unfold(2, 2, 2).unfold(3, 2, 2)
    pooled = (torch.logsumexp(rho * tiles, dim=(-1, -2)) - np.log(4)) / rho
    expected = last(flat(average(soft(second(pooled))))).detach().numpy()
    subject = adapters.torch(net, x)
    outputs = jax.vmap(subject.stand_in(rho), (None, 0))(subject.params, x)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected - net(torch.tensor(x)).detach().numpy()).max() > 0.01


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_tensors_of_any_float_are_taken(kind):
    torch = foreign.library("torch")
    x = torch.tensor(DRAW.normal(size=(3, 6)), dtype=getattr(torch, kind))
    expected = x.float().numpy()
    x.requires_grad_()  # it hands over no array
    _, rows = as_rows(x)
    np.testing.assert_array_equal(rows, expected)
    net, _ = mlp(torch)
    subject = adapters.torch(net, x)
    values = jax.vmap(subject.apply, (None, 0))(subject.params, expected)
    with torch.no_grad():
        np.testing.assert_allclose(values, net(x.float()).numpy(), atol=1e-5)


def test_parameters_go_back_under_their_names():
    torch = foreign.library("torch")
    net, (n,) = mlp(torch)
    subject = adapters.torch(net, np.ones((2, n), np.float32))
    doubled = {name: 2 * leaf for name, leaf in subject.params.items()}
    back = {name: torch.tensor(np.asarray(leaf)) for name, leaf in doubled.items()}
    net.load_state_dict(back)
    x = DRAW.normal(size=(3, n)).astype(np.float32)
    values = jax.vmap(subject.apply, (None, 0))(doubled, x)
    with torch.no_grad():
        expected = net(torch.tensor(x)).numpy()
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)


def test_a_loader_that_shuffles_gives_the_same_examples():
    torch = foreign.library("torch")
    x, y = torch.randn(40, 6), torch.arange(40) % 3
    whole = torch.utils.data.TensorDataset(x, y)

    def loaded(seed):
        torch.manual_seed(seed)
        loader = torch.utils.data.DataLoader(whole, batch_size=16, shuffle=True)
        return examples(loader, "auto")

    made, again = loaded(0), loaded(1)
    for name in ("train", "valid", "test"):
        assert getattr(made, name).sha256 == getattr(again, name).sha256
    assert {row.tobytes() for part in made[:3] for row in part.x} == {
        row.tobytes() for row in x.numpy()
    }
    with pytest.raises(ValueError, match="of single examples make batches"):
        examples(whole, "auto")


def test_what_torchax_cannot_do_is_named(monkeypatch):
    torch = foreign.library("torch")
    net, shape = mlp(torch)
    x = DRAW.normal(size=(3, *shape)).astype(np.float32)
    with pytest.raises(ValueError, match=r"does not take an input of shape \(5,\)"):
        adapters.torch(net, x[:, :5])
    pair = torch.nn.LSTM(6, 4, batch_first=True)
    with pytest.raises(ValueError, match="must return one array, got a tuple"):
        adapters.torch(pair, x[:, None])
    with pytest.raises(ValueError, match=r"32-bit floats, got torch.float64: pass"):
        adapters.torch(mlp(torch)[0].double(), x)
    monkeypatch.setitem(sys.modules, "torchax", None)
    with pytest.raises(ValueError, match="needs torchax .*ModuleNotFoundError"):
        adapters.torch(net, x)
