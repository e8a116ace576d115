"""Every loss against naive loops over pairs and triplets; the state of the modules."""

import copy
import math
import pickle
from itertools import product

import numpy as np
import pytest
import torch
from pytorch_metric_learning import distances, losses, reducers
from sklearn.base import clone
from sklearn.utils._param_validation import InvalidParameterError
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from skrepr._training._stacks import find_stacks
from skrepr.objectives import (
    BYOL,
    BarlowTwins,
    Contrastive,
    LiftedStructured,
    MoCo,
    NPair,
    NTXent,
    Objective,
    SimSiam,
    SupCon,
    Triplet,
    VICReg,
    Views,
    _blocks,
    barlow_twins,
    contrastive,
    lifted_structured,
    moco,
    n_pair,
    nt_xent,
    prediction,
    sup_con,
    triplet,
    vicreg,
)
from skrepr.objectives._targets import NOBODY

# Ids of n rows: each its own, classes, classes with unlabelled rows and a singleton.
IDS = {
    "views": [0, 1, 2, 3, 4, 5, 6],
    "classes": [0, 1, 1, 2, 0, 0, 1],
    "some": [0, 7, 0, 1, 8, 1, 1],
    "one class": [3] * 7,
}
# Of single embeddings, some without a positive.
SINGLE = {
    "pairs": [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5],
    "classes": [0, 0, 1, 2, 1, 0, 3, 2, 2, 0, 1, 1],
    "singletons": [0, 0, 1, 2, 3, 0, 4, 5, 6, 0, 1, 7],
    "strangers": list(range(12)),
    "one class": [5] * 12,
}


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.double)


def views(n=7, width=5, seed=0):
    a, noise = draw(2, n, width, seed=seed)
    return a, a + noise


def unit(z):
    return [row / np.linalg.norm(row) for row in z.numpy()]


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def pairs(ids):
    """List the ordered pairs of positives, and those of negatives."""
    ids = list(ids)
    found = list(product(range(len(ids)), repeat=2))
    positive = [(i, j) for i, j in found if i != j and ids[i] == ids[j]]
    return positive, [(i, j) for i, j in found if ids[i] != ids[j]]


def others(i, pairs):
    return [j for first, j in pairs if first == i]


def naive_nt_xent(a, b, temperature, ids):
    z, ids, n = unit(torch.cat([a, b])), list(ids) * 2, len(a)
    total = 0.0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        positive = math.exp(z[i] @ z[partner] / temperature)
        rest = sum(
            math.exp(z[i] @ z[j] / temperature)
            for j in range(2 * n)
            if ids[j] != ids[i]
        )
        total -= math.log(positive / (positive + rest))
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.01, 0.05, 0.5, 3.0])
@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_nt_xent_is_a_naive_double_loop(ids, temperature):
    a, b = views()
    expected = naive_nt_xent(a, b, temperature, ids)
    found = nt_xent(a, b, temperature, torch.tensor(ids))
    assert found.item() == pytest.approx(expected, rel=1e-10)
    if ids == IDS["views"]:
        found = nt_xent(a, b, temperature)
        assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 3.0])
def test_nt_xent_is_that_of_pytorch_metric_learning(temperature):
    a, b = (view.requires_grad_() for view in views(20))
    labels = torch.arange(20).repeat(2)
    theirs = losses.NTXentLoss(temperature)(torch.cat([a, b]), labels)
    for ids in None, labels[:20]:
        ours = nt_xent(a, b, temperature, ids)
        torch.testing.assert_close(ours, theirs)
        gradients = [
            torch.autograd.grad(loss, a, retain_graph=True)[0]
            for loss in (ours, theirs)
        ]
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
    found = [nt_xent(a, a, temperature).item() for temperature in (0.1, 0.5, 1.0)]
    assert found[0] < 0.05 < found[1] < found[2]


@pytest.mark.parametrize("temperature", [0.01, 0.2, 1.0])
def test_the_derivatives_of_nt_xent_are_those_of_its_definition(temperature):
    a, b = (view.requires_grad_() for view in views(7, 4))
    z = nn.functional.normalize(torch.cat([a, b]), dim=1)
    logits = z @ z.T / temperature - torch.diag(torch.full((14,), torch.inf))
    log_softmax = logits - logits.logsumexp(dim=1, keepdim=True)
    expected = -log_softmax[torch.arange(14), torch.arange(14).roll(7)].mean()
    found = nt_xent(a, b, temperature)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(3 * found, [a, b]),
        torch.autograd.grad(3 * expected, [a, b]),
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_moco_is_a_naive_double_loop(ids):
    queries, keys = views()
    queue = nn.functional.normalize(draw(6, 5, seed=1))
    queue_ids = torch.tensor([0, 1, 8, NOBODY, 2, 20])
    q, k, expected = unit(queries), unit(keys), []
    for i in range(7):
        positive = math.exp(q[i] @ k[i] / 0.3)
        rest = sum(
            math.exp(q[i] @ key.numpy() / 0.3)
            for key, other in zip(queue, queue_ids, strict=True)
            if other not in (ids[i], NOBODY)
        )
        expected.append(-math.log(positive / (positive + rest)))
    found = moco(queries, keys, torch.tensor(ids), queue, queue_ids, 0.3)
    assert found.item() == pytest.approx(mean(expected), rel=1e-10)


@pytest.mark.parametrize("ids", SINGLE.values(), ids=SINGLE)
def test_sup_con_is_a_naive_triple_loop(ids):
    z = draw(12, 4)
    x, (positive, _), expected = unit(z), pairs(ids), []
    for i in range(12):
        everything = sum(math.exp(x[i] @ x[j] / 0.3) for j in range(12) if j != i)
        chosen = others(i, positive)
        if chosen:
            expected.append(
                -mean(
                    math.log(math.exp(x[i] @ x[j] / 0.3) / everything) for j in chosen
                )
            )
    found = sup_con(z, torch.tensor(ids), 0.3)
    assert found.item() == pytest.approx(mean(expected), rel=1e-10)


@pytest.mark.parametrize("ids", ["pairs", "classes", "singletons"])
def test_sup_con_is_that_of_pytorch_metric_learning(ids):
    z, ids = draw(12, 4), torch.tensor(SINGLE[ids])
    # Their mean, too, is over the anchors that have a positive.
    torch.testing.assert_close(sup_con(z, ids, 0.3), losses.SupConLoss(0.3)(z, ids))


def test_sup_con_of_pairs_is_nt_xent():
    a, b = views()
    ids = torch.arange(7).repeat(2)
    torch.testing.assert_close(sup_con(torch.cat([a, b]), ids, 0.3), nt_xent(a, b, 0.3))


@pytest.mark.parametrize("margin", [0.5, 1.0, 1.6])
@pytest.mark.parametrize("ids", SINGLE.values(), ids=SINGLE)
def test_contrastive_is_a_naive_double_loop(ids, margin):
    z = draw(12, 4)
    x, (positive, negative) = unit(z), pairs(ids)
    near = mean(np.sum((x[i] - x[j]) ** 2) for i, j in positive)
    far = mean(max(0, margin - np.linalg.norm(x[i] - x[j])) ** 2 for i, j in negative)
    found = contrastive(z, torch.tensor(ids), margin)
    assert found.item() == pytest.approx(near + far, rel=1e-10)


def naive_triplets(z, ids, margin, mining):
    x, (positive, negative), found = unit(z), pairs(ids), []
    d = [[np.sum((u - v) ** 2) for v in x] for u in x]
    for i in range(len(x)):
        near, far = ([d[i][j] for j in others(i, p)] for p in (positive, negative))
        if not near or not far:
            continue
        if mining == "all":
            found += [p - n for p in near for n in far]
        elif mining == "hard":
            found.append(max(near) - min(far))
        for p in near if mining == "semi_hard" else []:
            found.append(p - min([n for n in far if n > p], default=max(far)))
    return mean(max(0, excess + margin) for excess in found)


@pytest.mark.parametrize("mining", ["semi_hard", "all", "hard"])
@pytest.mark.parametrize("ids", SINGLE.values(), ids=SINGLE)
@pytest.mark.parametrize("margin", [0.05, 0.2, 2.0])
def test_triplet_is_a_naive_triple_loop(ids, mining, margin):
    for seed in range(3):
        z = draw(12, 3, seed=seed)
        found = triplet(z, torch.tensor(ids), margin, mining)
        expected = naive_triplets(z, ids, margin, mining)
        assert found.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("ids", ["pairs", "classes", "singletons"])
def test_triplet_is_that_of_pytorch_metric_learning(ids):
    z, ids = draw(12, 4).requires_grad_(), torch.tensor(SINGLE[ids])
    theirs = losses.TripletMarginLoss(
        0.2, distance=distances.LpDistance(power=2), reducer=reducers.MeanReducer()
    )
    found = [triplet(z, ids, 0.2, "all"), theirs(z, ids)]
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*[torch.autograd.grad(loss, z)[0] for loss in found])


def test_a_batch_without_semi_hard_negatives_takes_the_farthest():
    # On a circle: the anchor at 0°, its positive at 90°, negatives at 30° and 60°.
    angles = torch.deg2rad(torch.tensor([0.0, 90, 30, 60], dtype=torch.double))
    z = torch.stack([angles.cos(), angles.sin()], dim=1)
    d = 2 - 2 * torch.cos(torch.deg2rad(torch.tensor([90.0, 60], dtype=torch.double)))
    found = triplet(z, torch.tensor([0, 0, 1, 2]), 0.2)
    # The view at 90° sees the same, mirrored.
    torch.testing.assert_close(found, d[0] - d[1] + 0.2)


@pytest.mark.parametrize("form", ["smooth", "hard"])
@pytest.mark.parametrize("ids", SINGLE.values(), ids=SINGLE)
def test_lifted_structured_is_a_naive_triple_loop(ids, form):
    z = draw(12, 4)
    x, (positive, negative), squares = unit(z), pairs(ids), []
    d = [[np.linalg.norm(u - v) for v in x] for u in x]
    for i, j in positive:
        near = [1 - d[k][other] for k in (i, j) for other in others(k, negative)]
        if near:
            total = math.log(sum(map(math.exp, near)))
            excess = d[i][j] + (total if form == "smooth" else max(near))
            squares.append(max(0, excess) ** 2)
    found = lifted_structured(z, torch.tensor(ids), 1.0, form)
    assert found.item() == pytest.approx(mean(squares) / 2, rel=1e-10)


@pytest.mark.parametrize("ids", ["pairs", "classes", "singletons"])
def test_lifted_structured_is_that_of_pytorch_metric_learning(ids):
    z, ids = draw(12, 4), torch.tensor(SINGLE[ids])
    theirs = losses.LiftedStructureLoss(reducer=reducers.MeanReducer())
    torch.testing.assert_close(lifted_structured(z, ids, 1.0), theirs(z, ids))


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_n_pair_is_a_naive_double_loop(ids):
    a, b = views()
    x, y = a.numpy(), b.numpy()
    expected = mean(
        math.log1p(
            sum(math.exp(x[i] @ (y[j] - y[i])) for j in others(i, pairs(ids)[1]))
        )
        for i in range(7)
    )
    found = n_pair(a, b, torch.tensor(ids))
    assert found.item() == pytest.approx(expected, rel=1e-10)
    if ids == IDS["views"]:
        torch.testing.assert_close(n_pair(a, b), found)


def test_n_pair_is_that_of_pytorch_metric_learning():
    a, b = (nn.functional.normalize(view) for view in views())  # theirs are
    # Theirs takes the first two of every id as anchor and positive.
    theirs = losses.NPairsLoss()(torch.cat([a, b]), torch.arange(7).repeat(2))
    torch.testing.assert_close(n_pair(a, b), theirs)


def test_prediction_is_the_squared_distance_to_the_partner_without_its_gradient():
    p, z = (x.requires_grad_() for x in draw(2, 6, 4))
    x, y = unit(p.detach()), unit(z.detach())
    expected = mean(np.sum((x[i] - y[(i + 3) % 6]) ** 2) for i in range(6))
    found = prediction(p, z)
    assert found.item() == pytest.approx(expected, rel=1e-10)
    found.backward()
    assert z.grad is None
    assert p.grad.norm() > 0


def test_barlow_twins_is_a_naive_double_loop():
    a, b = views(9, 4)
    x, y = ((v - v.mean(0)) / np.sqrt(v.var(0) + 1e-5) for v in (a.numpy(), b.numpy()))
    c = [[np.mean(x[:, i] * y[:, j]) for j in range(4)] for i in range(4)]
    invariance, redundancy = barlow_twins(a, b)
    expected = sum((1 - c[i][i]) ** 2 for i in range(4))
    assert invariance.item() == pytest.approx(expected, rel=1e-10)
    expected = sum(c[i][j] ** 2 for i in range(4) for j in range(4) if i != j)
    assert redundancy.item() == pytest.approx(expected, rel=1e-10)


def test_barlow_twins_of_equal_uncorrelated_columns_is_0():
    a = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.double)
    assert max(barlow_twins(a, 3 * a + 1)).item() < 1e-9


def test_vicreg_is_that_of_pytorch_metric_learning():
    a, b = (0.9 * view for view in views(9, 4))
    theirs = losses.VICRegLoss()(a, ref_emb=b)
    invariance, variance, covariance = vicreg(a, b)
    torch.testing.assert_close(25 * invariance + 25 * variance + covariance, theirs)
    spreads = np.sqrt([x.numpy().var(0, ddof=1) + 1e-4 for x in (a, b)])
    found = np.maximum(0, 1 - spreads).mean()
    assert variance.item() == pytest.approx(found, rel=1e-10)


def pairwise(ids, width=5):
    """List every loss of pairs as a function of embeddings (2n, width)."""
    two = ids.repeat(2)
    queue = nn.functional.normalize(draw(300, width, seed=3))
    queue_ids, keys = torch.arange(300) % 40, draw(1000, width, seed=4)

    def halves(loss, *options):
        return lambda z: loss(*z.chunk(2), *options)

    def by_ids(loss, *options):
        return lambda z: loss(z, two, *options)

    return {
        "nt_xent": halves(nt_xent, 0.3),
        "nt_xent of ids": halves(nt_xent, 0.3, ids),
        "cold nt_xent": halves(nt_xent, 0.01),
        "moco": lambda z: moco(
            z, keys[: len(z)].to(z), two, queue.to(z), queue_ids, 0.3
        ),
        "sup_con": by_ids(sup_con, 0.3),
        "contrastive": by_ids(contrastive, 1.0),
        "semi-hard": by_ids(triplet, 0.2, "semi_hard"),
        "all": by_ids(triplet, 0.2, "all"),
        "hard": by_ids(triplet, 0.2, "hard"),
        "smooth lifted": by_ids(lifted_structured, 1.0, "smooth"),
        "hard lifted": by_ids(lifted_structured, 1.0, "hard"),
        "n_pair": halves(n_pair),
        "n_pair of ids": halves(n_pair, ids),
    }


PAIRWISE = list(pairwise(torch.arange(2)))


@pytest.mark.parametrize("cells", [1, 100])
@pytest.mark.parametrize("ids", ["views", "classes", "some"])
@pytest.mark.parametrize("name", PAIRWISE)
def test_a_loss_in_blocks_is_the_loss(monkeypatch, name, ids, cells):
    loss = pairwise(torch.tensor(IDS[ids]))[name]
    z = draw(14, 5).requires_grad_()
    at_once = loss(z)
    [slope] = torch.autograd.grad(3 * at_once, z)
    monkeypatch.setattr(_blocks, "_CELLS", cells)
    in_blocks = loss(z)
    torch.testing.assert_close(in_blocks, at_once)
    torch.testing.assert_close(torch.autograd.grad(3 * in_blocks, z)[0], slope)
    with torch.no_grad():
        torch.testing.assert_close(loss(z), at_once.detach())
    if cells == 100 and ids == "some":
        assert torch.autograd.gradcheck(loss, z)


@pytest.mark.parametrize("cells", [2**20, 50])
@pytest.mark.parametrize("name", ["nt_xent", "sup_con", "moco"])
def test_a_loss_has_a_derivative_by_the_temperature(monkeypatch, name, cells):
    monkeypatch.setattr(_blocks, "_CELLS", cells)
    a, b = views()
    ids = torch.tensor(IDS["some"])
    queue, queue_ids = nn.functional.normalize(draw(9, 5, seed=1)), torch.arange(9)
    loss = {
        "nt_xent": lambda t: nt_xent(a, b, t),
        "sup_con": lambda t: sup_con(torch.cat([a, b]), ids.repeat(2), t),
        "moco": lambda t: moco(a, b, ids, queue, queue_ids, t),
    }[name]
    temperature = torch.tensor(0.5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(loss, temperature)


class Memory(TorchDispatchMode):
    """Measures the most bytes that tensors made inside of it hold at a time."""

    def __init__(self):
        super().__init__()
        self.held = {}
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)
                self.held[reference.cdata] = (reference, storage.nbytes())
        self.held = {k: v for k, v in self.held.items() if not v[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.held.values()))
        return out


@pytest.mark.parametrize("n_classes", [2, 200])
@pytest.mark.parametrize("name", PAIRWISE)
def test_the_memory_of_a_loss_is_not_that_of_its_matrix_of_pairs(
    monkeypatch, name, n_classes
):
    # A block holds a 25th of the pairs; at most twenty such are in use at a time.
    monkeypatch.setattr(_blocks, "_CELLS", 400**2 // 25)
    z = draw(400, 5).float().requires_grad_()
    loss = pairwise(torch.arange(200) % n_classes)[name]
    with Memory() as memory:
        loss(z).backward()
    assert memory.most < 4 * 400**2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ids", ["views", "classes", "one class"])
@pytest.mark.parametrize("name", PAIRWISE)
def test_a_loss_of_degenerate_embeddings_has_a_finite_gradient(name, ids, dtype):
    loss = pairwise(torch.tensor(IDS[ids]))[name]
    eye = torch.eye(5, dtype=dtype)[torch.arange(14) % 5]
    for z in torch.zeros(14, 5), torch.ones(14, 5), 1e20 * eye, eye + 1e-6:
        if name.startswith("n_pair"):
            z = z.clamp(max=10)  # its dot products are those of the raw embeddings
        z = z.to(dtype).clone().requires_grad_()
        value = loss(z)
        value.backward()
        assert value.isfinite()
        assert z.grad.isfinite().all()


@pytest.mark.parametrize("loss", [barlow_twins, vicreg])
def test_a_loss_of_constant_columns_has_a_finite_gradient(loss):
    for a in torch.zeros(6, 3), torch.full((6, 3), 1e4), torch.eye(6)[:, :3]:
        z = a.clone().requires_grad_()
        value = sum(loss(z, a))
        value.backward()
        assert value.isfinite()
        assert z.grad.isfinite().all()


@pytest.mark.parametrize("mining", ["semi_hard", "all", "hard"])
def test_a_batch_without_triplets_has_loss_0_and_gradient_0(mining):
    for ids in torch.arange(6), torch.zeros(6, dtype=torch.long):
        z = draw(6, 3).requires_grad_()
        loss = triplet(z, ids, 0.2, mining)
        loss.backward()
        assert loss.item() == 0
        assert not z.grad.any()


def test_a_blockwise_loss_refuses_second_derivatives(monkeypatch):
    monkeypatch.setattr(_blocks, "_CELLS", 10)
    z = draw(6, 3).requires_grad_()
    loss = sup_con(z, torch.arange(3).repeat(2), 0.2)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(loss, z, create_graph=True)


# The parts and their modules.

N_COLUMNS, N_COMPONENTS, WIDTH = 3, 4, 6
PARTS = [
    NTXent(temperature=0.3),
    NTXent(temperature=0.3, learn_temperature=True),
    MoCo(queue_size=10),
    MoCo(queue_size=10, learn_temperature=True, min_temperature=0.05),
    SupCon(temperature=0.3),
    SupCon(learn_temperature=True),
    Contrastive(margin=0.7),
    Triplet(margin=0.3, mining="all"),
    Triplet(mining="hard"),
    Triplet(),
    LiftedStructured(margin=0.7, form="hard"),
    LiftedStructured(),
    NPair(l2_weight=0.1),
    BYOL(momentum=0.8),
    SimSiam(),
    BarlowTwins(off_diagonal_weight=0.1),
    VICReg(invariance=1.0, variance=2.0, covariance=3.0),
]


def build(part):
    """Build an encoder and the module of an objective, in float64."""
    part._validate_params()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Sequential(
            nn.Linear(N_COLUMNS, 8), nn.ReLU(), nn.Linear(8, N_COMPONENTS)
        )
        head = nn.Sequential(
            nn.Linear(N_COMPONENTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)
        )
        module = part.build(encoder, head, N_COMPONENTS)
    return encoder.double(), module.double()


def batch(encoder, ids="views", n=7, seed=0, progress=0.5):
    originals = draw(n, N_COLUMNS, seed=seed).repeat(2, 1)
    rows = originals + 0.1 * draw(2 * n, N_COLUMNS, seed=seed + 100)
    numbers = torch.tensor(IDS[ids][:n]) if ids in IDS else torch.arange(n)
    return Views(
        rows,
        originals,
        encoder(rows),
        numbers.repeat(2),
        ids not in IDS or ids == "views",
        torch.tensor(progress),
    )


@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_a_part_is_a_value(part):
    copied = clone(part)
    assert copied is not part
    assert repr(copied) == repr(part)
    assert repr(eval(repr(part))) == repr(part)


def test_every_part_has_its_name():
    assert {type(part) for part in PARTS} == set(Objective.names.values())
    for name, kind in Objective.names.items():
        assert kind.__name__.lower() == name.replace("_", "")
        assert repr(kind()) == f"{kind.__name__}()"


@pytest.mark.parametrize(
    "part",
    [
        NTXent(temperature=0),
        NTXent(temperature="low"),
        SupCon(learn_temperature="yes"),
        MoCo(min_temperature=0.0),
        MoCo(momentum=1.0),
        MoCo(queue_size=0),
        MoCo(queue_size=2.5),
        Contrastive(margin=0.0),
        Triplet(margin=-1),
        Triplet(mining="soft"),
        LiftedStructured(margin=0),
        LiftedStructured(form="all"),
        NPair(l2_weight=-1.0),
        BYOL(momentum=-0.1),
        BarlowTwins(off_diagonal_weight=-1),
        VICReg(invariance=-1),
        VICReg(variance=None),
        VICReg(covariance=-0.1),
    ],
    ids=repr,
)
def test_an_invalid_parameter_is_an_error(part):
    changed = next(
        k for k, v in part.get_params().items() if f"{k}={v!r}" in repr(part)
    )
    with pytest.raises(
        InvalidParameterError, match=rf"'{changed}' .* {type(part).__name__}"
    ):
        part._validate_params()


@pytest.mark.parametrize("kind", [NTXent, SupCon, MoCo])
def test_a_temperature_to_be_learned_starts_above_the_least(kind):
    kind(temperature=0.01)._validate_params()
    kind(temperature=0.05, learn_temperature=True)._validate_params()
    with pytest.raises(ValueError, match=r"temperature=0.01 .*min_temperature=0.02"):
        kind(temperature=0.01, learn_temperature=True)._validate_params()


@pytest.mark.parametrize("ids", ["views", "classes"])
@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_every_module_gives_finite_terms_and_slopes_to_all_it_learns(part, ids):
    encoder, module = build(part)
    for seed in range(2):  # the queue is empty at first
        terms = module(batch(encoder, ids, seed=seed))
    assert all(term.shape == () for term in terms.values())
    sum(terms.values()).backward()
    learned = [p for p in module.parameters() if p.requires_grad]
    for p in [*learned, *encoder.parameters()]:
        assert p.grad.isfinite().all()
    assert sum(p.grad.abs().sum() for p in encoder.parameters()) > 0
    assert not {id(p) for p in encoder.parameters()} & {
        id(p) for p in module.parameters()
    }


@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_the_engine_knows_every_head_that_has_no_predictor_beside_it(part):
    _, module = build(part)
    networks = [] if hasattr(module, "predictor") else [module.head]
    if networks and hasattr(module, "target"):
        networks += [module.target.encoder, module.target.head]
    assert set(find_stacks(module)) == set(networks)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_the_smallest_batches_have_a_loss(part, n):
    encoder, module = build(part)
    for seed in range(2):
        loss = sum(module(batch(encoder, n=n, seed=seed)).values())
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_a_module_can_be_copied_pickled_and_restored_from_its_state(part):
    encoder, module = build(part)
    module(batch(encoder, seed=0))
    module.after_step(encoder)
    fresh = build(part)[1]
    fresh.load_state_dict(module.state_dict())
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module)), fresh]
    given = batch(encoder, seed=1)
    expected = module(given)
    for copied in copies:
        assert copied(given) == expected


@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_evaluation_changes_no_state(part):
    encoder, module = build(part)
    module(batch(encoder, seed=0))
    module.eval()
    before = copy.deepcopy(module.state_dict())
    with torch.no_grad():
        first, again = (module(batch(encoder, seed=1)) for _ in range(2))
    assert first == again
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("ids", ["views", "classes"])
@pytest.mark.parametrize(
    ("part", "loss"),
    [
        (NTXent(0.3), lambda z, ids: nt_xent(*z.chunk(2), 0.3, ids[:7])),
        (SupCon(0.3), lambda z, ids: sup_con(z, ids, 0.3)),
        (Contrastive(0.7), lambda z, ids: contrastive(z, ids, 0.7)),
        (Triplet(0.3, "hard"), lambda z, ids: triplet(z, ids, 0.3, "hard")),
        (
            LiftedStructured(0.7, "hard"),
            lambda z, ids: lifted_structured(z, ids, 0.7, "hard"),
        ),
        (
            NPair(0.1),
            lambda z, ids: n_pair(*z.chunk(2), ids[:7]) + 0.1 * z.square().sum() / 14,
        ),
        (BarlowTwins(0.1), lambda z, ids: weighted(barlow_twins(*z.chunk(2)), 1, 0.1)),
        (VICReg(2, 3, 4), lambda z, ids: weighted(vicreg(*z.chunk(2)), 2, 3, 4)),
    ],
    ids=[
        "nt_xent",
        "sup_con",
        "contrastive",
        "triplet",
        "lifted_structured",
        "n_pair",
        "barlow_twins",
        "vicreg",
    ],
)
def test_a_module_compares_projections_of_the_head(part, loss, ids):
    encoder, module = build(part)
    given = batch(encoder, ids)
    expected = loss(module.head(given.codes), given.ids)
    torch.testing.assert_close(sum(module(given).values()), expected)


def weighted(terms, *weights):
    return sum(w * term for w, term in zip(weights, terms, strict=True))


def targets(module):
    return [p.clone() for p in module.target.parameters()]


def shift(*modules):
    with torch.no_grad():
        for module in modules:
            for p in module.parameters():
                p.add_(1)


def test_the_target_of_moco_moves_by_the_momentum_rule():
    encoder, module = build(MoCo(momentum=0.9, queue_size=10))
    before = targets(module)
    online = [*encoder.parameters(), *module.head.parameters()]
    torch.testing.assert_close(before, [p.detach() for p in online])
    shift(encoder, module.head)
    module(batch(encoder))
    module.after_step(encoder)
    torch.testing.assert_close(targets(module), [p + 0.1 for p in before])


@pytest.mark.parametrize(("progress", "moved"), [(0.0, 0.2), (0.5, 0.1), (1.0, 0.0)])
def test_the_target_of_byol_slows_down_along_a_cosine(progress, moved):
    encoder, module = build(BYOL(momentum=0.8))
    before = targets(module)
    shift(encoder, module.head)
    module(batch(encoder, progress=progress))
    module.after_step(encoder)
    expected = [p + moved for p in before]
    torch.testing.assert_close(targets(module), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("part", [MoCo(queue_size=30), BYOL()], ids=repr)
def test_targets_see_neither_the_online_network_nor_gradients(part):
    encoder, module = build(part)
    given = batch(encoder)
    before = module.target(given.rows)
    sum(module(given).values()).backward()
    shift(encoder, module.head)
    torch.testing.assert_close(module.target(given.rows), before)
    assert all(p.grad is None for p in module.target.parameters())


def test_byol_predicts_what_the_target_makes_of_the_partner():
    encoder, module = build(BYOL())
    shift(encoder, module.head)
    module.eval()
    given = batch(encoder)
    p = module.predictor(module.head(encoder(given.rows)))
    z = module.target.head(module.target.encoder(given.rows))
    cosines = nn.functional.cosine_similarity(p, torch.cat([z[7:], z[:7]]))
    torch.testing.assert_close(module(given)["byol"], (2 - 2 * cosines).mean())


def test_moco_tells_the_partners_key_from_those_of_earlier_batches():
    encoder, module = build(MoCo(temperature=0.3, queue_size=100))
    first, second = (batch(encoder, "classes", seed=seed) for seed in range(2))
    assert module(first)["moco"].item() == 0
    shift(encoder, module.head)
    q = nn.functional.normalize(module.head(encoder(second.rows)))
    second.codes = encoder(second.rows)
    keys, old = (
        nn.functional.normalize(module.target(given.rows)) for given in (second, first)
    )
    positive = (q * keys.roll(7, 0)).sum(1, keepdim=True) / 0.3
    same = second.ids[:, None] == first.ids
    negative = (q @ old.T / 0.3).masked_fill(same, -torch.inf)
    expected = torch.cat([positive, negative], 1).logsumexp(1) - positive[:, 0]
    torch.testing.assert_close(module(second)["moco"], expected.mean())


@pytest.mark.parametrize("queue_size", [1, 5, 14, 20, 33, 100])
def test_the_queue_holds_the_newest_keys_whatever_the_sizes(queue_size):
    encoder, module = build(MoCo(queue_size=queue_size))
    keys, ids = [], []
    for seed, n in enumerate([7, 3, 7, 2, 5, 7, 7, 4]):
        given = batch(encoder, n=n, seed=seed)
        given.ids = given.ids + 100 * seed
        module(given)
        keys += [*nn.functional.normalize(module.target(given.rows))]
        ids += given.ids.tolist()
        filled = module.queue_ids != NOBODY
        newest = ids[-queue_size:]
        assert sorted(module.queue_ids[filled].tolist()) == sorted(newest)
        oldest_first = (module.position + torch.arange(queue_size)) % queue_size
        in_order = oldest_first[filled[oldest_first]]
        assert module.queue_ids[in_order].tolist() == newest
        torch.testing.assert_close(
            module.queue[in_order], torch.stack(keys[-queue_size:])
        )


@pytest.mark.parametrize("kind", [NTXent, SupCon, MoCo])
def test_a_learned_temperature_stops_at_the_least_and_comes_back(kind):
    part = kind(temperature=0.1, learn_temperature=True, min_temperature=0.05)
    encoder, module = build(part)
    [logarithm] = [p for p in module.parameters() if p.shape == ()]
    assert module.temperature().item() == pytest.approx(0.1)
    module(batch(encoder, seed=1))  # something in the queue
    with torch.no_grad():
        logarithm.sub_(10)
    module.after_step(encoder)
    assert module.temperature().item() == pytest.approx(0.05)
    sum(module(batch(encoder)).values()).backward()
    assert logarithm.grad != 0
    with torch.no_grad():
        logarithm.add_(0.5)
    module.after_step(encoder)
    assert module.temperature().item() == pytest.approx(0.05 * math.exp(0.5))


@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_training_makes_partners_agree_and_not_all_rows(part):
    encoder, module = build(part)
    learned = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam([*encoder.parameters(), *learned], lr=3e-3)
    for step in range(60):
        optimizer.zero_grad()
        given = batch(encoder, "many", n=60, seed=step, progress=step / 60)
        sum(module(given).values()).backward()
        optimizer.step()
        module.after_step(encoder)
    z = encoder(batch(encoder, "many", n=60, seed=999).rows).detach()
    assert z.std(0).max() > 0.1
    z = (z - z.mean(0)) / z.std(0)
    # The mean squared difference of strangers is 2.
    assert (z[:60] - z[60:]).square().mean() < 0.2
    assert torch.linalg.matrix_rank(z, rtol=0.02) >= 2
