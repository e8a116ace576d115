"""The fast step gives the numbers of the plain one, and leaves nothing behind."""

import pickle
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from skrepr import (
    AutoencoderTransformer,
    ContrastiveTransformer,
    VAETransformer,
)
from skrepr._training import _loop, _stacks
from skrepr._training._loop import Trainer
from skrepr._training._optimizer import Parameters
from skrepr._training._random import Seeded
from skrepr._training._stacks import Stack, find_stacks, is_stack
from skrepr._training._threads import matmul, one_thread
from skrepr.augmentations import Augmentation, Compose
from skrepr.backbones import MLP, Backbone
from skrepr.likelihoods import Gaussian, Likelihood
from skrepr.likelihoods._real import _Gaussian
from skrepr.objectives import NTXent, Objective, ObjectiveModule, nt_xent
from skrepr.penalties import Penalty, TopK

ESTIMATORS = [AutoencoderTransformer, VAETransformer, ContrastiveTransformer]
ACTIVATIONS = ["relu", "leaky_relu", "elu", "gelu", "silu", "tanh"]


def rows(n=150, d=6, seed=0):
    """Rows with units of their own, and a column that does not vary."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2)) @ rng.normal(size=(2, d)) + rng.normal(size=(n, d))
    X *= 10.0 ** np.arange(d)
    X[:, 3] = 7.0
    return X


def mlp(*sizes, activation=nn.ReLU, seed=0):
    layers = []
    with Seeded(torch.Generator().manual_seed(seed)):
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1])


@pytest.fixture
def plain(monkeypatch):
    """A function that fits with torch's own way through every module."""

    def fit(estimator, X):
        with monkeypatch.context() as patch:
            patch.setattr(_loop, "find_stacks", lambda module: [])
            return estimator.fit(X)

    return fit


def assert_same_fit(fast, slow, rtol=2e-5, atol=2e-4):
    assert fast.history_.keys() == slow.history_.keys()
    for term, losses in slow.history_.items():
        assert_allclose(fast.history_[term], losses, rtol=rtol, atol=1e-6, err_msg=term)
    state = slow.module_.state_dict()
    assert fast.module_.state_dict().keys() == state.keys()
    for name, tensor in fast.module_.state_dict().items():
        assert_allclose(tensor, state[name], rtol=1e-3, atol=atol, err_msg=name)


def is_by_hand(fitted):
    """Tell whether an estimator's network is trained without autograd."""
    module = pickle.loads(pickle.dumps(fitted.module_)).requires_grad_(True)
    trainer = Trainer(module, torch.Generator(), learning_rate=0.1, weight_decay=0.0)
    assert len(trainer.parameters.stacks) == 2
    return trainer._by_hand is not None


# Fast and plain fits.


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_fast_and_plain_fits_are_the_same(estimator, activation, plain):
    backbone = MLP((16, 12), activation=activation)
    params = {"max_iter": 4, "batch_size": 32, "random_state": 0}
    fast = estimator(3, backbone=backbone, **params).fit(rows())
    assert_same_fit(fast, plain(estimator(3, backbone=backbone, **params), rows()))


@pytest.mark.parametrize(
    "estimator",
    [
        AutoencoderTransformer(augmentation=None),
        AutoencoderTransformer(augmentation="feature_corruption", penalty="l1"),
        AutoencoderTransformer(likelihood="bernoulli"),
        AutoencoderTransformer(penalty=TopK(1)),
        AutoencoderTransformer(backbone=MLP(())),
        VAETransformer(likelihood="bernoulli", beta=2.0),
        VAETransformer(likelihood=Gaussian(scale=0.3), kl_warmup=0.0),
        VAETransformer(learning_rate=0.1),  # the noise scale reaches its bound
        ContrastiveTransformer(objective=NTXent(temperature=0.01)),
        ContrastiveTransformer(augmentation="gaussian_noise"),
    ],
)
@pytest.mark.parametrize(
    "params", [{}, {"weight_decay": 0.1, "early_stopping": True}, {"batch_size": 1000}]
)
def test_fast_and_plain_fits_are_the_same_with_other_parts(estimator, params, plain):
    X = rows(d=5)
    if getattr(estimator, "likelihood", "") == "bernoulli":
        X = 1 / (1 + np.exp(-(X - X.mean(0)) / (X.std(0) + 1e-9)))
    if estimator.learning_rate == 0.1:
        X = X[:, :1] * np.ones(5)
    params = {"n_components": 2, "max_iter": 3, "random_state": 1, **params}
    fast = type(estimator)(**estimator.get_params(deep=False) | params).fit(X)
    slow = plain(type(estimator)(**estimator.get_params(deep=False) | params), X)
    assert_same_fit(fast, slow, rtol=1e-3 if estimator.learning_rate == 0.1 else 2e-5)


def mixed_rows(n=400):
    """Rows of two numbers and of categories: few, many, rare ones, a single one."""
    rng = np.random.default_rng(0)
    codes = [
        rng.integers(3, size=n),
        np.arange(n) % 20,
        np.where(np.arange(n) < 250, np.arange(n) % 18, np.arange(n)),
        np.arange(n),
        np.zeros(n),
    ]
    return np.column_stack([rng.normal(5, 3, (n, 2)), *codes]).astype(float)


@pytest.mark.parametrize("holes", [[], [1], [2, 3, 4, 5, 6], range(7)])
@pytest.mark.parametrize(
    "estimator",
    [
        AutoencoderTransformer(),
        AutoencoderTransformer(augmentation=None, likelihood={0: Gaussian(0.5)}),
        VAETransformer(),
        VAETransformer(likelihood=Gaussian("learned"), learning_rate=0.1),
    ],
)
def test_fast_and_plain_fits_are_the_same_of_holes_and_categories(
    estimator, holes, plain
):
    X = mixed_rows()
    for j in holes:
        X[j :: j + 3, j] = np.nan
    params = {
        "categorical_features": [2, 3, 4, 5, 6],
        "n_components": 2,
        "max_iter": 3,
        "random_state": 0,
        "weight_decay": 0.1,
    }
    fast, slow = (clone(estimator).set_params(**params) for _ in range(2))
    fast.fit(X)
    assert is_by_hand(fast)
    assert {name for name, _ in fast.module_.named_parameters()} >= {
        "encoder.inputs.vectors_3",
        "encoder.inputs.vectors_4",
    }
    # Adam makes steps of the learning rate out of what is all rounding.
    atol = 1e-3 if estimator.learning_rate == 0.1 else 2e-4
    assert_same_fit(fast, plain(slow, X), rtol=1e-4, atol=atol)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (AutoencoderTransformer(), True),
        (AutoencoderTransformer(augmentation=None), True),
        (VAETransformer(), True),
        (ContrastiveTransformer(), False),
        (AutoencoderTransformer(penalty="l1"), False),
        (AutoencoderTransformer(penalty="top_k"), False),
        (AutoencoderTransformer(likelihood="bernoulli"), False),
        (VAETransformer(likelihood="bernoulli"), False),
    ],
)
def test_which_gradients_are_made_by_hand(estimator, expected):
    X = rows()
    X = (X - X.min(0)) / (X.max(0) - X.min(0) + 1e-9)
    assert (
        is_by_hand(estimator.set_params(max_iter=1, batch_size=200).fit(X)) == expected
    )


# What stacks can compute.


def changed(function):
    """Return an MLP after a function changed it."""
    module = mlp(3, 4, 2)
    function(module)
    return module


class OwnLinear(nn.Linear):
    pass


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(3, 2),
        nn.Sequential(),
        nn.Sequential(nn.ReLU()),
        nn.Sequential(nn.Linear(3, 2), nn.ReLU()),
        nn.Sequential(nn.ReLU(), nn.Linear(3, 2)),
        nn.Sequential(nn.Linear(3, 2, bias=False)),
        nn.Sequential(OwnLinear(3, 2)),
        nn.Sequential(weight_norm(nn.Linear(3, 2))),
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(3, 4), nn.Softmax(1), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(-0.1), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(3, 4), nn.ELU(-0.5), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Tanh(), nn.Linear(4, 2)),
        changed(lambda m: m.register_forward_hook(lambda *args: None)),
        changed(lambda m: m[0].register_forward_pre_hook(lambda *args: None)),
        changed(lambda m: m[0].register_full_backward_hook(lambda *args: None)),
        changed(lambda m: m[2].weight.register_hook(lambda g: None)),
        changed(lambda m: m[2].bias.register_post_accumulate_grad_hook(lambda p: None)),
        changed(lambda m: setattr(m[0], "forward", lambda x: x[:, [0, 0, 0, 0]])),
    ],
)
def test_modules_that_no_stack_computes(module):
    assert not is_stack(module)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlps_are_stacks(activation):
    backbone = MLP((5, 4), activation=activation)
    for module in backbone.encoder(3, 2), backbone.decoder(2, 3), mlp(3, 2):
        assert is_stack(module)


class Foreign(nn.Module):
    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, x):
        return self.inside(x)


class ForeignBackbone(Backbone):
    def encoder(self, n_inputs, n_outputs):
        return Foreign(mlp(n_inputs, 8, n_outputs))

    def decoder(self, n_inputs, n_outputs):
        return mlp(n_inputs, 8, n_outputs)


class Tied(Backbone):
    """The decoder's first layer is the encoder's last."""

    def encoder(self, n_inputs, n_outputs):
        type(self).shared = nn.Linear(n_outputs, n_outputs)
        return nn.Sequential(nn.Linear(n_inputs, n_outputs), nn.ReLU(), self.shared)

    def decoder(self, n_inputs, n_outputs):
        return nn.Sequential(self.shared, nn.ReLU(), nn.Linear(n_inputs, n_outputs))


class Twice(Backbone):
    """One layer in two places of a network."""

    def encoder(self, n_inputs, n_outputs):
        same = nn.Linear(5, 5)
        first, last = nn.Linear(n_inputs, 5), nn.Linear(5, n_outputs)
        return nn.Sequential(first, nn.Tanh(), same, nn.Tanh(), same, nn.Tanh(), last)

    decoder = encoder


class OneWeight(Twice):
    """One weight matrix in two layers."""

    def encoder(self, n_inputs, n_outputs):
        layers = mlp(n_inputs, 5, 5, 5, n_outputs)
        layers[4].weight = layers[2].weight
        return layers

    decoder = encoder


class Frozen(MLP):
    def decoder(self, n_inputs, n_outputs):
        return super().decoder(n_inputs, n_outputs).requires_grad_(False)


class Shift(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x, generator, ids=None):
        return x + self.shift


class LearnedShift(Augmentation):
    def build(self, columns):
        return Shift()


def towards(x, generator):
    """Go up the slope of a function of the rows, which needs autograd."""
    x = x.detach().requires_grad_()
    [slope] = torch.autograd.grad(x.square().sum(), x)
    return x.detach() + 0.1 * slope.sign()


def with_holes(x, generator):
    """Leave out cells, though the rows have no holes."""
    u = torch.empty_like(x).uniform_(generator=generator)
    return x.masked_fill(u < 0.2, torch.nan)


class Towards(nn.Module):
    def forward(self, x, generator, ids=None):
        return towards(x, generator)


class Adversarial(Augmentation):
    def build(self, columns):
        return Towards()


class AbsoluteError(_Gaussian):
    def cost(self, x, output):
        return self.only_varying((x - output).abs())

    def log_prob(self, x, output):
        return -self.cost(x, output)


class Laplace(Likelihood):
    def build(self, columns, *, noise=True):
        return AbsoluteError(columns, "learned", noise)


class Replaced(Likelihood):
    """Its module is the Gaussian one, but for a method."""

    def build(self, columns, *, noise=True):
        module = Gaussian().build(columns, noise=noise)
        module.cost = lambda x, output: (x - output).abs()
        module.log_prob = lambda x, output: -(x - output).abs()
        return module


class OwnObjective(Objective):
    def build(self, encoder, head, n_components):
        return self.module(encoder, head)


class WeightPenalty(OwnObjective):
    """Uses the weights of the encoder beside its output."""

    class module(ObjectiveModule):
        def __init__(self, encoder, head):
            super().__init__()
            self.given = [encoder]

        def forward(self, views):
            weights = self.given[0].network[0].weight.square().sum()
            return {"codes": views.codes.square().mean(), "w": weights}


class Decay(Penalty):
    """Uses the weights of the encoder's network, and not the codes."""

    def build(self, n_components):
        return _Decay()


class _Decay(nn.Module):
    def forward(self, encoded):
        return 10 * sum(p.square().sum() for p in encoded.network.parameters())


class Hooked(OwnObjective):
    """Halves the codes by a hook."""

    def build(self, encoder, head, n_components):
        module = NTXent().build(encoder, head, n_components)
        module.register_forward_hook(
            lambda module, args, terms: {"half": terms["nt_xent"] / 2}
        )
        return module


@pytest.mark.parametrize(
    "estimator",
    [
        AutoencoderTransformer(backbone=MLP((8,), norm="batch")),
        VAETransformer(backbone=MLP((8,), norm="layer")),
        ContrastiveTransformer(backbone=MLP((8,), dropout=0.3)),
        AutoencoderTransformer(backbone=ForeignBackbone()),
        VAETransformer(backbone=ForeignBackbone()),
        AutoencoderTransformer(backbone=Tied()),
        AutoencoderTransformer(backbone=Twice()),
        AutoencoderTransformer(backbone=OneWeight()),
        AutoencoderTransformer(backbone=Frozen()),
        AutoencoderTransformer(penalty=Decay()),
        VAETransformer(likelihood=Replaced()),
        VAETransformer(likelihood=Laplace()),
        ContrastiveTransformer(objective=Hooked()),
        AutoencoderTransformer(augmentation=LearnedShift()),
        AutoencoderTransformer(augmentation=Compose(LearnedShift(), "mixup")),
        AutoencoderTransformer(augmentation=Shift()),
        ContrastiveTransformer(objective=WeightPenalty()),
    ],
)
def test_other_modules_go_the_plain_way(estimator, plain):
    params = {"n_components": 3, "max_iter": 3, "batch_size": 40, "random_state": 0}
    first = clone(estimator).set_params(**params).fit(rows())
    second = plain(clone(estimator).set_params(**params), rows())
    assert first.history_ == second.history_
    for a, b in zip(
        first.module_.parameters(), second.module_.parameters(), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "estimator",
    [
        AutoencoderTransformer(likelihood=Laplace()),
        AutoencoderTransformer(likelihood=Replaced()),
        AutoencoderTransformer(likelihood={0: Laplace()}, categorical_features=[4]),
        VAETransformer(likelihood={0: Replaced()}, categorical_features=[4]),
        AutoencoderTransformer(augmentation=Adversarial()),
        ContrastiveTransformer(augmentation=Adversarial()),
        AutoencoderTransformer(augmentation=Compose("mixup", Adversarial())),
        AutoencoderTransformer(augmentation=towards),
        AutoencoderTransformer(augmentation=with_holes),
        ContrastiveTransformer(augmentation=Compose(towards, "mixup")),
    ],
)
def test_parts_of_a_users_own_change_the_loss_and_not_the_numbers(estimator, plain):
    params = {"n_components": 3, "max_iter": 3, "batch_size": 40, "random_state": 0}
    estimator.set_params(**params)
    assert_same_fit(clone(estimator).fit(rows()), plain(estimator, rows()))


def test_a_users_objective_may_do_with_its_parameters_what_it_likes():
    class module(ObjectiveModule):
        def __init__(self, encoder, head):
            super().__init__()
            self.prototypes = nn.Parameter(torch.eye(4, 3))
            self.never_used = nn.Parameter(torch.ones(3, 3))
            self.n_batches = 0

        def forward(self, views):
            self.n_batches += 1
            codes = nn.functional.normalize(views.codes, dim=1)
            nearest = (codes @ self.prototypes.T).max(dim=1).values
            rare = {} if self.n_batches % 2 else {"rare": 0 * nearest.sum()}
            return {"distance": -nearest.mean(), **rare}

        def after_step(self, encoder):
            p = self.prototypes
            p.data = nn.functional.normalize(p.data, dim=1)
            for parameter in [*self.parameters(), *encoder.parameters()]:
                parameter.grad = None

    objective = OwnObjective()
    objective.module = module
    fitted = ContrastiveTransformer(
        3, objective=objective, max_iter=20, weight_decay=0.5, random_state=0
    ).fit(rows())
    trained = fitted.module_.objective
    assert not torch.allclose(trained.prototypes, torch.eye(4, 3), atol=0.01)
    assert torch.equal(trained.never_used, torch.ones(3, 3))  # no gradient, no decay
    assert fitted.history_["loss"][-1] < fitted.history_["loss"][0] - 0.1


def test_steps_inside_autocast():
    for norm in (None, "layer"):
        estimator = ContrastiveTransformer(2, backbone=MLP((8,), norm=norm), max_iter=1)
        with torch.autocast("cpu", torch.bfloat16):
            estimator.fit(rows())
        assert np.isfinite(estimator.history_["loss"]).all()


def test_columns_of_any_size_and_scale():
    X = np.random.default_rng(0).normal(size=(60, 4)) * 1e18
    vae = VAETransformer(2, standardize=False, max_iter=2, random_state=0)
    assert np.isfinite(vae.fit(X).history_["loss"]).all()
    vae = VAETransformer(2, likelihood=Gaussian(scale=1e-160), max_iter=2)
    with pytest.raises(ValueError, match="no longer finite"):
        vae.fit(X)


def test_a_module_on_another_device_has_no_stacks():
    class Module(nn.Module):
        __module__ = "skrepr.somewhere"

        def __init__(self):
            super().__init__()
            self.inside = mlp(3, 4, 2)

    assert len(find_stacks(Module())) == 1
    assert find_stacks(Module().to("meta")) == []


# A stack beside autograd.


def over(layers):
    """Take over an MLP; return the parameters as well."""

    class Module(nn.Module):
        __module__ = "skrepr.somewhere"

        def __init__(self):
            super().__init__()
            self.layers = layers

    return Parameters(Module(), [layers], weight_decay=0.0)


@pytest.mark.parametrize(
    "make",
    [
        *(
            lambda a=activation: mlp(4, 7, 5, 3, activation=a)
            for activation in _stacks._ACTIVATIONS
        ),
        lambda: nn.Sequential(*mlp(4, 3), *mlp(3, 6, 2)),  # two maps in a row
        lambda: mlp(4, 3),
    ],
)
def test_the_derivatives_of_a_stack_are_autograds(make):
    layers, reference = make(), make()
    reference.load_state_dict(layers.state_dict())
    parameters = over(layers)
    generator = torch.Generator().manual_seed(0)
    for n in (6, 9, 6):
        x = 2 * torch.randn(n, 4, generator=generator)
        own, expected = (x.clone().requires_grad_() for _ in range(2))
        parameters.zero_grad()
        out, reference_out = layers(own), reference(expected)
        weights = torch.randn(out.shape, generator=generator)
        assert_allclose(out.detach(), reference_out.detach(), rtol=1e-5, atol=1e-6)
        (out * weights).sum().backward()
        reference.zero_grad()
        (reference_out * weights).sum().backward()
        assert_allclose(own.grad, expected.grad, rtol=1e-4, atol=1e-5)
        linear = [a for a in reference if type(a) is nn.Linear]
        [stack] = parameters.stacks.values()
        for map_, layer in zip(stack.maps, linear, strict=True):
            assert_allclose(
                map_.gradient[:, :-1], layer.weight.grad, rtol=1e-4, atol=1e-5
            )
            assert_allclose(map_.gradient[:, -1], layer.bias.grad, rtol=1e-4, atol=1e-5)


def test_a_stack_may_be_called_often_in_a_step():
    layers, reference = mlp(3, 8, 2), mlp(3, 8, 2)
    parameters = over(layers)
    a, b = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        parameters.zero_grad()
        with torch.no_grad():
            target = layers(b)
        first, second = layers(a), layers(b)
        ((first * second).sum() + (second - target - 1).square().sum()).backward()
        layers(a).exp().sum().backward()
    with torch.no_grad():
        target = reference(b)
    first, second = reference(a), reference(b)
    ((first * second).sum() + (second - target - 1).square().sum()).backward()
    reference(a).exp().sum().backward()
    [stack] = parameters.stacks.values()
    for map_, layer in zip(stack.maps, reference[::2], strict=True):
        assert_allclose(map_.gradient[:, :-1], layer.weight.grad, rtol=1e-4, atol=1e-5)
        assert_allclose(map_.gradient[:, -1], layer.bias.grad, rtol=1e-4, atol=1e-5)


def test_a_stack_keeps_no_hold_on_what_it_was_given_and_gave():
    layers = mlp(3, 8, 2)
    parameters = over(layers)
    a, b = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    first = layers(a)
    kept = first.detach().clone()
    layers(b)
    assert torch.equal(first, kept)
    x, reference = a.clone(), mlp(3, 8, 2)
    out = layers(x)
    x.zero_()  # before the backward pass
    out.sum().backward()
    reference(a).sum().backward()
    [stack] = parameters.stacks.values()
    assert_allclose(stack.maps[0].gradient[:, :-1], reference[0].weight.grad, rtol=1e-4)


def test_derivatives_of_derivatives_are_an_error_not_a_wrong_number():
    layers = mlp(3, 8, 2)
    over(layers)
    x = torch.ones(4, 3, requires_grad=True)
    for function in (layers, lambda x: nt_xent(x, 2 * x, 0.2)):
        torch.autograd.grad(function(x).sum(), x)
        with pytest.raises(RuntimeError, match="create_graph"):
            torch.autograd.grad(function(x).sum(), x, create_graph=True)


@pytest.mark.parametrize("shape", [(4, 1), (3,), (2, 4, 3)])
def test_a_stack_takes_rows_of_its_width_only(shape):
    layers = mlp(3, 8, 2)
    over(layers)
    with pytest.raises(ValueError, match=r"shape .* expects 3 values a row"):
        layers(torch.ones(shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_evaluation_by_stacks_is_the_modules_own(dtype):
    class Module(nn.Module):
        __module__ = "skrepr.somewhere"

        def __init__(self):
            super().__init__()
            self.inside = mlp(3, 8, 2).to(dtype)

    x = torch.randn(7, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    module = Module()
    expected = module.inside(x).detach()
    _stacks.for_evaluation(module)
    assert isinstance(module.inside.forward, Stack)
    with torch.inference_mode():
        found = module.inside(x)
    assert found.dtype == dtype
    assert_allclose(found, expected, rtol=1e-13 if dtype == torch.float64 else 1e-5)


def test_matmul():
    a, b = torch.randn(4, 3), torch.randn(5, 3).T
    with one_thread():
        assert_allclose(matmul(a, b), a @ b, rtol=1e-5, atol=1e-6)
    assert matmul(a.to("meta"), b.to("meta")).shape == (4, 5)


# The update.


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("taken_over", [True, False])
def test_the_update_is_adamws(weight_decay, taken_over):
    class Module(nn.Module):
        __module__ = "skrepr.somewhere" if taken_over else "elsewhere"

        def __init__(self):
            super().__init__()
            self.layers = mlp(3, 8, 2)
            self.scale = nn.Parameter(torch.ones(()))

    module, reference = Module(), Module()
    parameters = Parameters(module, find_stacks(module), weight_decay)
    assert bool(parameters.stacks) == taken_over
    decaying = [p for p in reference.parameters() if p.ndim == 2]
    others = [p for p in reference.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": decaying, "weight_decay": weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
    )
    generator = torch.Generator().manual_seed(0)
    for i in range(20):
        x = torch.randn(6, 3, generator=generator)
        rate = 0.1 / (i + 1)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        parameters.zero_grad()
        for m in module, reference:
            (m.scale * m.layers(x)).square().mean().backward()
        optimizer.step()
        parameters.update(rate)
    parameters.release()
    for a, b in zip(module.parameters(), reference.parameters(), strict=True):
        assert_allclose(a.detach(), b.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_fit_leaves_a_module_like_any_other(estimator):
    fitted = estimator(3, max_iter=2, random_state=0).fit(rows())
    for module in fitted.module_.modules():
        assert "forward" not in vars(module)
    for p in fitted.module_.parameters():
        assert p.is_contiguous()
        assert p.untyped_storage().nbytes() == p.nbytes
        assert p.grad is None
    n_bytes = sum(p.nbytes for p in fitted.module_.parameters())
    assert len(pickle.dumps(fitted.module_)) < n_bytes + 30_000


# A fresh process.

FRESH = """
import sys
import numpy, sklearn.base, sklearn.utils.validation, torch, tqdm, joblib
before = set(sys.modules)
import skrepr
import skrepr.inspection
from skrepr import AutoencoderTransformer, ContrastiveTransformer, VAETransformer
from skrepr.backbones import MLP
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(loaded - {"sklearn", "_loss"})  # the latter is of scikit-learn 1.6
X = numpy.random.default_rng(0).normal(size=(20, 3))
for estimator in [
    AutoencoderTransformer(),
    AutoencoderTransformer(penalty="l1"),
    VAETransformer(),
    VAETransformer(backbone=MLP(dropout=0.1, norm="batch")),
    ContrastiveTransformer(),
]:
    estimator.set_params(max_iter=1).fit(X).score(X)
print({"torch._dynamo", "torch.fx", "sympy"} & set(sys.modules) - before)
"""


def test_import_and_first_fit_load_little_beside_torch_and_scikit_learn():
    command = [sys.executable, "-c", FRESH]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["{'skrepr'}", "set()"]


def test_overflow_is_left_to_the_training_loop():
    estimator = AutoencoderTransformer(learning_rate=1e30, max_iter=3)
    with pytest.raises(ValueError, match="finite"):
        estimator.fit(rows())
