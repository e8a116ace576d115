"""NT-Xent against a naive double loop and pytorch-metric-learning; the seam."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from pytorch_metric_learning.losses import NTXentLoss
from torch import nn

from skrepr import ContrastiveTransformer
from skrepr._training import Batch
from skrepr.objectives import NTXent, Objective, nt_xent


def views(n=7, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, width, generator=generator, dtype=torch.double)
    return a, a + torch.randn(n, width, generator=generator, dtype=torch.double)


def naive(a, b, temperature):
    z = [v / np.linalg.norm(v) for v in np.concatenate([a, b])]
    n, total = len(a), 0.0
    for i in range(2 * n):
        positive = math.exp(z[i] @ z[(i + n) % (2 * n)] / temperature)
        everything = sum(
            math.exp(z[i] @ z[j] / temperature) for j in range(2 * n) if j != i
        )
        total -= math.log(positive / everything)
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("n", [2, 7, 40])
def test_nt_xent_is_a_naive_double_loop(n, temperature):
    a, b = views(n)
    expected = naive(a.numpy(), b.numpy(), temperature)
    assert nt_xent(a, b, temperature).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 3.0])
def test_nt_xent_is_that_of_pytorch_metric_learning(temperature):
    a, b = (view.requires_grad_() for view in views(20))
    ours = nt_xent(a, b, temperature)
    labels = torch.arange(20).repeat(2)
    theirs = NTXentLoss(temperature)(torch.cat([a, b]), labels)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss, a)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_nt_xent_does_not_see_the_length_of_embeddings():
    a, b = views()
    lengths = torch.linspace(0.1, 100, 7, dtype=torch.double)[:, None]
    torch.testing.assert_close(nt_xent(lengths * a, 5 * b, 0.5), nt_xent(a, b, 0.5))


def test_nt_xent_is_the_same_for_swapped_views_and_other_orders():
    a, b = views()
    order = torch.arange(7).roll(3)
    expected = nt_xent(a, b, 0.5)
    torch.testing.assert_close(nt_xent(b, a, 0.5), expected)
    torch.testing.assert_close(nt_xent(a[order], b[order], 0.5), expected)
    assert nt_xent(a, b[order], 0.5) > expected


def test_nt_xent_of_embeddings_that_are_all_equal_is_chance():
    a = torch.ones(6, 3)
    assert nt_xent(a, a, 0.1).item() == pytest.approx(math.log(11))


def test_a_low_temperature_rewards_agreement_most():
    a, _ = views(5, width=20)
    losses = [nt_xent(a, a, temperature).item() for temperature in (0.1, 0.5, 1.0)]
    assert losses[0] < 0.05 < losses[1] < losses[2]


@pytest.mark.parametrize("a", [torch.zeros(4, 3), torch.ones(4, 3), torch.eye(4, 3)])
def test_nt_xent_has_a_finite_gradient(a):
    a = a.clone().requires_grad_()
    loss = nt_xent(a, a.detach(), 0.01)
    loss.backward()
    assert loss.isfinite()
    assert a.grad.isfinite().all()


def test_the_module_compares_projections_of_the_head():
    encoder, head = nn.Linear(3, 2).double(), nn.Linear(2, 4).double()
    x, _ = views(6, width=3)
    draws = torch.Generator().manual_seed(0)
    batch = Batch(x, None, torch.arange(6), torch.tensor(0.0), draws)
    given, made = [], []

    def augment(x, generator):
        given.append((x, generator))
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        made.append(x + noise)
        return made[-1]

    terms = NTXent(0.3).build(encoder, head, 2)(batch, augment, batch.index)
    assert [call[0] is x and call[1] is draws for call in given] == [True, True]
    a, b = made
    assert list(terms) == ["nt_xent"]
    expected = nt_xent(head(encoder(a)), head(encoder(b)), 0.3)
    torch.testing.assert_close(terms["nt_xent"], expected)


class Centering(Objective):
    """An objective of the user: two terms, and a running mean of its own."""

    def build(self, encoder, head, n_components):
        return _Centering(encoder, n_components)


class _Centering(nn.Module):
    def __init__(self, encoder, n_components):
        super().__init__()
        self.encoder = encoder
        self.register_buffer("n_steps", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(40))

    def forward(self, batch, augment, ids):
        self.seen[ids] += 1
        views = [augment(batch.x, batch.generator) for _ in range(3)]
        assert not torch.equal(views[0], views[1])
        a, b, _ = map(self.encoder, views)
        return {
            "agreement": (a - b).square().mean(),
            "mean": (torch.cat([a, b]).mean() - 1).square(),
        }

    def after_step(self):
        self.n_steps += 1


def test_an_objective_of_the_user_owns_its_state_and_sees_the_ids_of_the_rows():
    X = np.random.default_rng(0).normal(size=(40, 3))
    contrastive = ContrastiveTransformer(
        2, objective=Centering(), max_iter=5, batch_size=10, random_state=0
    ).fit(X)
    objective = contrastive.module_.objective
    assert objective.n_steps == 20
    assert objective.seen.tolist() == [5] * 40
    terms = [contrastive.history_[name] for name in ("agreement", "mean")]
    assert_allclose(contrastive.history_["loss"], np.sum(terms, axis=0))
    assert contrastive.transform(X).shape == (40, 2)


@pytest.mark.parametrize("temperature", [0.01, 0.2, 1.0])
def test_the_derivatives_of_nt_xent_are_those_of_its_definition(temperature):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 7, 4, dtype=torch.float64, generator=generator)
    a.requires_grad_()
    b.requires_grad_()
    z = torch.nn.functional.normalize(torch.cat([a, b]), dim=1)
    logits = z @ z.T / temperature - torch.diag(torch.full((14,), torch.inf))
    log_softmax = logits - logits.logsumexp(dim=1, keepdim=True)
    expected = -log_softmax[torch.arange(14), torch.arange(14).roll(7)].mean()
    found = nt_xent(a, b, temperature)
    assert_allclose(found.item(), expected.item(), rtol=1e-10)
    for x, y in zip(
        torch.autograd.grad(3 * found, [a, b]),
        torch.autograd.grad(3 * expected, [a, b]),
        strict=True,
    ):
        assert_allclose(x, y, rtol=1e-9, atol=1e-12)


def test_nt_xent_has_a_derivative_by_a_temperature_that_is_learned():
    a, b = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))
    temperature = torch.tensor(0.5, requires_grad=True)
    [slope] = torch.autograd.grad(nt_xent(a, b, temperature), temperature)
    difference = nt_xent(a, b, 0.501) - nt_xent(a, b, 0.499)
    assert_allclose(slope, difference / 0.002, rtol=1e-2)
