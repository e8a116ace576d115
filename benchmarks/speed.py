"""How fast fits, scores and searches are, beside peers and beside the hardware.

    python benchmarks/speed.py [--only SECTION ...] [--repeats N]

Contenders take turns, and times are medians over the repeats, of what is quick over a
multiple of them, of searches over a third (peak memory is the largest): on a machine
that is shared, ratios in a table mean more than its times. "Limit" is the time of the
matrix products alone, with the shapes of a step and by the faster of torch and NumPy.

Sections: fit (the same network, data, batches, number of steps and optimiser for all),
busy (the same while another process keeps a core busy), defaults (each estimator as it
comes), cost (what a fit takes beside its steps, and what it puts
off), inference (many rows), one_row, size (of a stored model), tables (steps on holes
and categories), whole_tables (fits of such tables), search (GridSearchCV), growth (from
ten thousand to a million rows), start (imports and the first fit).
"""

import argparse
import math
import os
import pickle
import platform
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from itertools import pairwise, product
from time import perf_counter

import numpy as np
import sklearn
import torch
from _networks import (
    MLPRegressorAutoencoder,
    SkorchAutoencoder,
    autoencoder,
    network,
    skorch_regressor,
)
from joblib.externals.loky import get_reusable_executor
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn import functional as F

from skrepr import (
    AutoencoderTransformer,
    ContrastiveTransformer,
    FineTunedClassifier,
    FineTunedRegressor,
    VAETransformer,
)
from skrepr.backbones import MLP

LEARNING_RATE = 1e-3
FIT = [  # rows, columns, hidden units, components, batch, epochs of the timed fits
    (2_000, 32, 64, 8, 128, 60),
    (10_000, 32, 128, 16, 256, 15),
    (10_000, 128, 256, 32, 256, 10),
    (50_000, 64, 256, 32, 1_024, 5),
]
# Of fits whose losses have settled: whole epochs with and without the last batch.
LONG_FIT_STEPS = [14_400, 6_240, 1_560, 2_352]
TRANSFORMERS = (AutoencoderTransformer, VAETransformer, ContrastiveTransformer)


def table(n, d, seed=0):
    """Make standardised float32 rows near a plane of eight dimensions."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 8)) @ rng.normal(size=(8, d))
    X += rng.normal(size=X.shape)
    return ((X - X.mean(0)) / X.std(0)).astype(np.float32)


def seconds(function):
    start = perf_counter()
    function()
    return perf_counter() - start


def interleave(contenders, repeats):
    """Time functions in turn; return the median seconds of each."""
    times = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, function in contenders.items():
            times[name].append(seconds(function))
    return {name: float(np.median(t)) for name, t in times.items()}


def line(fits, few, many, repeats):
    """Time fits of few and of many epochs in turn.

    Returns, by the name of each fit, a function of the number of epochs, the seconds of
    an epoch and those of a fit of none.
    """
    work = {(f, n): partial(fits[f], n) for f, n in product(fits, (few, many))}
    for name in fits:  # warm up
        work[name, few]()
    medians = interleave(work, repeats)
    found = {}
    for name in fits:
        epoch = (medians[name, many] - medians[name, few]) / (many - few)
        found[name] = epoch, medians[name, few] - few * epoch
    return found


@contextmanager
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def show(title, header, rows):
    print(f"\n### {title}\n")
    for row in [header, ["---"] * len(header), *rows]:
        print(f"| {' | '.join(map(str, row))} |")
    sys.stdout.flush()


# Fits of one network by all.


def plain_loop(X, make, batch, n_steps):
    """Train on tensors in memory, with torch's fused Adam."""
    net, x = make(), torch.from_numpy(X)
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE, fused=True)
    step = 0
    while step < n_steps:
        for index in torch.randperm(len(x)).split(batch):
            rows = x[index]
            optimizer.zero_grad()
            F.mse_loss(net(rows), rows).backward()
            optimizer.step()
            step += 1
    return net, step


def dataloader_loop(X, make, batch, n_steps):
    """Train as the tutorials do."""
    net = make()
    data = torch.utils.data.TensorDataset(torch.from_numpy(X))
    loader = torch.utils.data.DataLoader(data, batch_size=batch, shuffle=True)
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)
    step = 0
    while step < n_steps:
        for (rows,) in loader:
            optimizer.zero_grad()
            F.mse_loss(net(rows), rows).backward()
            optimizer.step()
            step += 1
    return net, step


def by_skorch(X, make, batch, n_steps):
    n_epochs = n_steps // math.ceil(len(X) / batch)
    net = skorch_regressor(make, batch, n_epochs, LEARNING_RATE)
    return net.fit(X, X).module_, n_steps


def by_pyod(X, make, batch, n_steps):
    from pyod.models.auto_encoder import AutoEncoder

    class SameNetwork(AutoEncoder):
        def build_model(self):
            self.model = make()

    epochs = round(n_steps / (len(X) // batch))  # it drops the last, smaller batch
    detector = SameNetwork(
        preprocessing=False,
        lr=LEARNING_RATE,
        epoch_num=epochs,
        batch_size=batch,
        optimizer_params={},
        verbose=0,
    )
    detector.fit(X)
    return detector.model, epochs * (len(X) // batch)


def by_skrepr(X, h, k, batch, n_steps):
    estimator = AutoencoderTransformer(
        k,
        backbone=MLP((h,)),
        augmentation=None,  # no other contender makes noise
        learning_rate=LEARNING_RATE,
        batch_size=batch,
        max_iter=n_steps // math.ceil(len(X) / batch),
        random_state=0,
    )
    estimator.fit(X)
    net = nn.Sequential(estimator.module_.encoder, estimator.module_.decoder)
    return net, estimator.n_iter_ * math.ceil(len(X) / batch)


def products(sizes, batch, n_steps, library, *, training=True):
    """Time the matrix products of steps, or of as many forward passes, alone."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return (rng.normal(size=shape) / shape[-1] ** 0.5).astype(np.float32)

    values = [draw(batch, size) for size in sizes]
    weights = [draw(b, a) for a, b in pairwise(sizes)]
    slopes = [np.empty_like(weight) for weight in weights]
    if library == "torch":
        values, weights, slopes = (
            [torch.from_numpy(array) for array in arrays]
            for arrays in (values, weights, slopes)
        )
    multiply = np.matmul if library == "numpy" else torch.mm
    calls = [(values[i], w.T, values[i + 1]) for i, w in enumerate(weights)]
    if training:
        for i, weight in list(enumerate(weights))[::-1]:
            calls.append((values[i + 1].T, values[i], slopes[i]))
            if i > 0:
                calls.append((values[i + 1], weight, values[i]))

    def run():
        with torch.inference_mode(), np.errstate(all="ignore"):
            for _ in range(n_steps):
                for a, b, out in calls:
                    multiply(a, b, out=out)

    return run


def mean_squared_error(net, X):
    with torch.no_grad():
        x = torch.from_numpy(X)
        return F.mse_loss(net(x), x).item()


PEERS = {
    "PyOD": by_pyod,
    "skorch": by_skorch,
    "DataLoader loop": dataloader_loop,
    "resident loop": plain_loop,
}


def contest(peers, X, h, k, batch, n_steps):
    """Return the fits of the same network by contenders, functions by their names."""

    def make():
        torch.manual_seed(0)
        return autoencoder(X.shape[1], h, k)

    work = {name: partial(PEERS[name], X, make, batch, n_steps) for name in peers}
    return work | {"skrepr": partial(by_skrepr, X, h, k, batch, n_steps)}


def count_steps(work):
    """Return the numbers of the contenders' steps; this also warms up.

    In few epochs they may differ: PyOD drops the last batch of an epoch.
    """
    return {name: function()[1] for name, function in work.items()}


def compare_losses(work, X, n_steps):
    """See that fits end alike; return by how much their losses differ."""
    losses = {}
    for name, function in work.items():
        net, steps = function()
        losses[name] = mean_squared_error(net, X)
        assert abs(steps / n_steps - 1) < 0.001, (name, steps, n_steps)
    spread = max(losses.values()) / min(losses.values())
    assert spread < 1.1, f"The contenders did not do the same: {losses}"
    return spread - 1


def fit(repeats):
    rows = []
    for (n, d, h, k, batch, n_epochs), n_long in zip(FIT, LONG_FIT_STEPS, strict=True):
        X, n_steps = table(n, d), n_epochs * math.ceil(n / batch)
        spread = compare_losses(contest(PEERS, X, h, k, batch, n_long), X, n_long)
        work = contest(PEERS, X, h, k, batch, n_steps)
        steps = count_steps(work)
        for library in ("torch", "numpy"):
            steps[library] = steps["skrepr"]
            work[library] = products([d, h, k, h, d], batch, steps[library], library)
        medians = interleave(work, 3 * repeats)
        step = {name: time / steps[name] for name, time in medians.items()}
        own, limit = step["skrepr"], min(step["torch"], step["numpy"])
        rows.append(
            [
                f"{n:,}, {d}, {h}, {k}, {batch:,}, {n_epochs}",
                *(f"{1e6 * step[p]:,.0f} ({step[p] / own:.1f}×)" for p in PEERS),
                f"**{1e6 * own:,.0f}**",
                f"{1e6 * limit:,.0f}",
                f"{own / limit:.2f}",
                f"{spread:.0%}",
            ]
        )
    header = ["rows, d, h, k, batch, epochs", *PEERS, "skrepr", "limit"]
    show(
        "Fit of an autoencoder d-h-k-h-d: microseconds a step (times skrepr's)",
        [*header, "skrepr / limit", "losses of long fits differ by"],
        rows,
    )


SPIN = """
import numpy as np
a = np.ones((500, 500))
while True:
    a @ a
"""


@contextmanager
def busy_core():
    """Let a process multiply matrices on one core until the end of the block."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", SPIN], env=environment)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def busy(repeats):
    rows = []
    for n, d, h, k, batch, n_epochs in FIT:
        n_steps = n_epochs * math.ceil(n / batch)
        work = contest(["resident loop"], table(n, d), h, k, batch, n_steps)
        steps = count_steps(work)
        idle = interleave(work, 3 * repeats)
        with busy_core():
            medians = interleave(work, 3 * repeats)
        rows.append(
            [
                f"{n:,}, {d}, {h}, {k}, {batch:,}, {n_epochs}",
                *(f"{1e6 * medians[name] / steps[name]:,.0f}" for name in work),
                f"{medians['resident loop'] / medians['skrepr']:.2f}×",
                f"{idle['resident loop'] / idle['skrepr']:.2f}×",
            ]
        )
    show(
        "The same fits while another process multiplies matrices on one core, with one "
        "BLAS thread: microseconds a step",
        ["rows, d, h, k, batch, epochs", *work, "ratio", "ratio without it"],
        rows,
    )


# Each estimator as it comes.


def schedule(optimizer, rate, step, n_steps):
    progress = (step + 0.5) / n_steps
    factor = progress / 0.1
    if progress >= 0.1:
        factor = 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))
    for group in optimizer.param_groups:
        group["lr"] = rate * factor


def train_plainly(X, modules, loss, n_epochs, *, rate=LEARNING_RATE, batch=256):
    x = torch.from_numpy(X)
    x = (x - x.mean(0)) / x.std(0)
    parameters = [p for module in modules for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, rate, fused=True)
    n_batches = math.ceil(len(x) / batch)
    step, total = 0, 0.0
    for _ in range(n_epochs):
        total = 0.0
        for index in torch.randperm(len(x)).tensor_split(n_batches):
            schedule(optimizer, rate, step, n_epochs * n_batches)
            optimizer.zero_grad()
            value = loss(x[index], step / (n_epochs * n_batches))
            value.backward()
            optimizer.step()
            total += value.detach()
            step += 1
    return float(total / n_batches)


def plain_autoencoder(X, n_epochs):
    d = X.shape[1]
    encoder, decoder = network([d, 128, 128, 16]), network([16, 128, 128, d])

    def loss(x, progress):
        noisy = x + torch.rand(len(x), 1) * torch.randn_like(x)
        return F.mse_loss(decoder(encoder(noisy)), x)

    return train_plainly(X, [encoder, decoder], loss, n_epochs, rate=2e-3)


def plain_vae(X, n_epochs):
    d = X.shape[1]
    encoder, decoder = network([d, 128, 128, 32]), network([16, 128, 128, d])
    noise = nn.ParameterList([nn.Parameter(torch.zeros(()))])

    def loss(x, progress):
        mean, log_variance = encoder(x).chunk(2, dim=1)
        log_variance = log_variance.clamp(-12, 6)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        log_scale = (10 * noise[0]).clamp(min=math.log(1e-3))
        errors = ((x - decoder(z)) * torch.exp(-log_scale)).square()
        cost = 0.5 * errors + log_scale + 0.5 * math.log(2 * math.pi)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        return (cost.sum() + min(progress / 0.2, 1) * kl.sum()) / len(x)

    return train_plainly(X, [encoder, decoder, noise], loss, n_epochs, rate=5e-3)


def plain_contrastive(X, n_epochs):
    encoder, head = network([X.shape[1], 128, 128, 16]), network([16, 128, 128])

    def view(x):
        donors = torch.randint(len(x), x.shape)
        return torch.where(torch.rand_like(x) < 0.3, x.gather(0, donors), x)

    def loss(x, progress):
        z = F.normalize(head(encoder(torch.cat([view(x), view(x)]))), dim=1)
        logits = z @ z.T / 0.05
        logits.fill_diagonal_(-torch.inf)
        return F.cross_entropy(logits, torch.arange(len(z)).roll(len(x)))

    return train_plainly(X, [encoder, head], loss, n_epochs)


def defaults(repeats):
    pairs = [
        (AutoencoderTransformer, plain_autoencoder),
        (VAETransformer, plain_vae),
        (ContrastiveTransformer, plain_contrastive),
    ]
    rows = []
    for n, d in [(2_000, 32), (50_000, 64)]:
        X = table(n, d)
        for estimator, plainly in pairs:
            fitted = estimator(random_state=0).fit(X)
            n_epochs, loss = fitted.n_iter_, fitted.history_["loss"][-1]
            torch.manual_seed(0)
            other = plainly(X, n_epochs)
            assert abs(loss - other) < 0.1 * abs(other), (estimator, loss, other)
            medians = interleave(
                {
                    "plain": lambda f=plainly, X=X, e=n_epochs: f(X, e),
                    "skrepr": lambda e=estimator, X=X: e(random_state=0).fit(X),
                },
                repeats,
            )
            ratio = medians["plain"] / medians["skrepr"]
            name = estimator.__name__
            rows.append(
                [f"{name}, {n:,} × {d}"]
                + [f"{t:.2f}" for t in medians.values()]
                + [f"{ratio:.2f}×", f"{loss:.4g}, {other:.4g}"]
            )
    header = ["estimator, rows × columns", "resident loop", "skrepr", "ratio"]
    show("Fit at the defaults: seconds", [*header, "losses (skrepr, loop)"], rows)


# What a fit takes beside its steps.


def fits_of_all(X, h, k, batch):
    """Return a function of the number of epochs for every estimator."""
    options = {"batch_size": batch, "random_state": 0}

    def build(kind, n_epochs):
        return kind(k, backbone=MLP((h,)), max_iter=n_epochs, **options)

    def transformer(kind, n_epochs):
        return build(kind, n_epochs).fit(X)

    def fine_tuned(kind, y, n_epochs):
        inner = build(AutoencoderTransformer, n_epochs)
        return kind(inner, max_iter=n_epochs, **options).fit(X, y)

    return {
        **{kind.__name__: partial(transformer, kind) for kind in TRANSFORMERS},
        "FineTunedClassifier": partial(fine_tuned, FineTunedClassifier, X[:, 0] > 0),
        "FineTunedRegressor": partial(fine_tuned, FineTunedRegressor, X[:, 0]),
    }


def first_call(fit, verb, *arguments, repeats):
    """Return the seconds of the first call of a verb after a fit of one epoch."""
    verbs = [getattr(fit(1), verb) for _ in range(repeats)]
    return np.median([seconds(partial(call, *arguments)) for call in verbs])


def cost(repeats):
    rows = []
    for n, d, h, k, batch, _ in (FIT[0], FIT[2]):
        X, n_batches = table(n, d), math.ceil(n / batch)
        fits = fits_of_all(X, h, k, batch)
        with one_thread():
            lines = line(fits, 1, 9, 5 * repeats)
            first = {
                name: [
                    first_call(fits[name], "score_samples", X[:1], repeats=repeats),
                    first_call(fits[name], "sample", repeats=repeats),
                ]
                for name in ("AutoencoderTransformer", "VAETransformer")
            }
        for name, (epoch, own) in lines.items():
            step = epoch / n_batches
            calls = [f"{1e3 * time:.1f}" for time in first.get(name, [])] or ["–", "–"]
            rows.append(
                [
                    f"{name}, {n:,} × {d}",
                    f"{1e6 * step:,.0f}",
                    f"{1e3 * own:.1f}",
                    f"{own / step:.0f}",
                    *calls,
                ]
            )
    show(
        "What a fit takes beside its steps, and what it puts off, with one thread (a "
        "step of fine-tuning is one of the autoencoder's pre-training and one of its "
        "own; the first scores are of one row)",
        [
            "estimator, rows × columns",
            "a step, µs",
            "beside the steps, ms",
            "in steps",
            "first `score_samples`, ms",
            "first `sample`, ms",
        ],
        rows,
    )


# Transform and scores.


def inference(repeats):
    X = table(1_000_000, 32)
    fitted = AutoencoderTransformer(16, max_iter=2, random_state=0).fit(X[:2_000])
    work = {"transform": lambda: fitted.transform(X)}
    for library in ("torch", "numpy"):
        for block in (1_000, 10_000):
            work[library, block] = products(
                [32, 128, 128, 16], block, len(X) // block, library, training=False
            )
    medians = interleave(work, max(repeats, 5))
    own, limit = medians.pop("transform"), min(medians.values())
    rows = [
        [
            "`transform`, MLP(128, 128) to 16, 10⁶ × 32 float32",
            f"{len(X) / own:,.0f}",
            f"{own / limit:.2f} × the limit",
        ]
    ]
    for estimator, n in [(AutoencoderTransformer, 50_000), (VAETransformer, 4_000)]:
        fitted = estimator(16, backbone=MLP((256, 256)), max_iter=2, random_state=0)
        fitted.fit(X[:2_000])
        for dtype in (np.float32, np.float64):
            Y = X[:n].astype(dtype)
            with one_thread():
                score = partial(fitted.score_samples, Y)
                time = np.median([seconds(score) for _ in range(max(repeats, 5))])
            rows.append(
                [
                    f"`{estimator.__name__}.score_samples`, MLP(256, 256) to 16, "
                    f"32 columns {np.dtype(dtype)}",
                    f"{n / time:,.0f}",
                    "one core",
                ]
            )
    show("Transform and scores", ["what", "rows a second", ""], rows)


def one_row(repeats):
    X = table(2_000, 32).astype(np.float64)
    row = X[:1]
    work = {"PCA.transform": partial(PCA(8).fit(X).transform, row)}
    for estimator in TRANSFORMERS:
        fitted = estimator(8, max_iter=3, random_state=0).fit(X)
        work[f"{estimator.__name__}.transform"] = partial(fitted.transform, row)
        if estimator is not ContrastiveTransformer:
            name = f"{estimator.__name__}.score_samples"
            work[name] = partial(fitted.score_samples, row)
    for function in work.values():  # the first scores are those that are put off
        function()
    medians = interleave(work, 200 * repeats)
    rows = [
        [f"`{name}`", f"{1e6 * time:.0f}", f"{time / medians['PCA.transform']:.1f}×"]
        for name, time in medians.items()
    ]
    show("One row of 32 columns float64", ["what", "microseconds", "PCA's"], rows)


# A stored model.


def bytes_of(module):
    """Return the bytes of the tensors of a module."""
    state = module.state_dict().values()
    return sum(value.nbytes for value in state if isinstance(value, torch.Tensor))


def size(repeats):
    rows = []  # nothing is timed, so that once is enough
    for n, d in [(2_000, 32), (10_000, 128)]:
        X = table(n, d)
        for estimator in TRANSFORMERS:
            fitted = estimator(max_iter=1, random_state=0).fit(X)
            errors = density = quantiles = 0
            if estimator is AutoencoderTransformer:
                errors = bytes_of(fitted.error_model_)
            if estimator is not ContrastiveTransformer:
                generator = fitted.row_generator_
                density = bytes_of(generator.density)
                quantiles = generator.generated.nbytes + sum(
                    q.values.nbytes + q.below.nbytes + q.upto.nbytes
                    for q in generator.quantiles
                )
            parts = [bytes_of(fitted.module_), quantiles, errors, density]
            stored = len(pickle.dumps(fitted))
            rows.append(
                [f"{estimator.__name__}, {n:,} × {d}"]
                + [f"{value / 1e3:,.0f}" for value in [*parts, stored]]
                + [f"{stored / sum(parts):.2f}"]
            )
    show(
        "A pickle beside the arrays that a fitted model must have: kilobytes",
        [
            "estimator, rows × columns",
            "weights",
            "quantiles",
            "error model",
            "density of codes",
            "pickle",
            "pickle / arrays",
        ],
        rows,
    )


# Tables with holes and categories.


def with_holes(n, d):
    X = table(n, d)
    X[np.random.default_rng(0).random(X.shape) < 0.1] = np.nan
    return X


def with_categories(n, d, levels):
    """Make a DataFrame of d numbers and of strings, so many levels in each column."""
    import pandas as pd

    rng, frame = np.random.default_rng(0), pd.DataFrame(table(n, d)).add_prefix("x")
    for i, n_levels in enumerate(levels):
        frame[f"c{i}"] = [f"level {level}" for level in rng.integers(n_levels, size=n)]
    return frame


def titanic():
    """Make a DataFrame like that of the Titanic's passengers."""
    frame = with_categories(1_300, 8, [2, 3, 3, 900, 900])
    frame.loc[np.random.default_rng(0).random(len(frame)) < 0.2, "x0"] = np.nan
    return frame


def tables(repeats):
    n, n_batches, few, many = 2_560, 10, [2, 3, 4, 5, 6, 8], [100, 100]
    frames = {
        "20 numbers, a tenth missing in each": with_holes(n, 20),
        "10 numbers, 6 columns of 2 to 8 levels": with_categories(n, 10, few),
        "these and 2 columns of 100 levels": with_categories(n, 10, few + many),
    }
    rows = []
    for estimator, name in product((AutoencoderTransformer, VAETransformer), frames):

        def fit_epochs(X, n_epochs, estimator=estimator):
            return estimator(max_iter=n_epochs, random_state=0).fit(X)

        X = frames[name]
        width = fit_epochs(X, 1).module_.encoder.inputs.width
        plain = table(n, width)
        fits = {"own": partial(fit_epochs, X), "plain": partial(fit_epochs, plain)}
        with one_thread():
            lines = line(fits, 5, 40, 3 * repeats)
        own, other = (epoch / n_batches for epoch, _ in lines.values())
        rows.append(
            [
                f"{estimator.__name__}, {name}",
                width,
                f"{1e6 * own:,.0f}",
                f"{1e6 * other:,.0f}",
                f"{own / other:.2f}×",
            ]
        )
    show(
        "A step at the defaults, beside one of a table of as many numbers as the "
        "network has inputs: microseconds, with one thread",
        ["estimator, columns", "inputs", "step", "plain step", "ratio"],
        rows,
    )


def whole_tables(repeats):
    X = table(2_560, 20)
    frames = {"holes": with_holes(*X.shape), "plain": X, "titanic": titanic()}
    rows = []
    for estimator in (AutoencoderTransformer, VAETransformer):

        def fit_wholly(X, estimator=estimator):
            return estimator(random_state=0).fit(X)

        work = {name: partial(fit_wholly, X) for name, X in frames.items()}
        name, times = estimator.__name__, interleave(work, repeats)
        cells = [f"{times[f]:.2f}" for f in ("holes", "plain")]
        ratio = times["holes"] / times["plain"]
        rows.append([f"{name}, a tenth missing", *cells, f"{ratio:.2f}×"])
        rows.append([f"{name}, Titanic-like", f"{times['titanic']:.2f}", "–", "–"])
    show(
        "Whole fits at the defaults: seconds (2,560 × 20 numbers; Titanic-like: 1,300 "
        "rows, 8 numbers, one with holes, 3 columns of 2 or 3 levels, 2 of 900)",
        ["estimator, table", "fit", "the same without holes", "ratio"],
        rows,
    )


# A search.


def search(repeats):
    X = table(2_000, 32)
    y = X[:, :4].sum(axis=1) > 0
    own = AutoencoderTransformer(
        backbone=MLP((64,)),
        augmentation=None,
        batch_size=128,
        max_iter=30,
        random_state=0,
    )
    rates = {"codes__learning_rate": [1e-3, 3e-3]}
    contenders = {
        "PCA": (PCA(random_state=0), {"codes__whiten": [False, True]}),
        "MLPRegressor": (MLPRegressorAutoencoder(), rates),
        "skorch": (SkorchAutoencoder(), rates),
        "skrepr": (own, rates),
    }
    searches = {}
    for (name, (codes, grid)), n_jobs in product(contenders.items(), (1, 2)):
        scaler, classifier = StandardScaler(), LogisticRegression()
        searches[name, n_jobs] = GridSearchCV(
            Pipeline([("scaler", scaler), ("codes", codes), ("labels", classifier)]),
            {
                "codes__n_components": [2, 4, 8, 16],
                "labels__C": [0.1, 1.0, 10.0],
                **grid,
            },
            cv=5,
            n_jobs=n_jobs,
            refit=False,
            error_score="raise",
        )
    cold = {}
    for name in contenders:
        get_reusable_executor().shutdown(wait=True)  # the next one's workers are new
        cold[name] = seconds(partial(searches[name, 2].fit, X, y))
    work = {name: partial(searches[name].fit, X, y) for name in searches}
    medians = interleave(work, max(1, repeats // 3))  # a search is 120 fits
    scores = {s: searches[s].cv_results_["mean_test_score"] for s in searches}
    assert (scores["skrepr", 1] == scores["skrepr", 2]).all(), scores
    best = {name: scores[name, 1].max() for name in contenders}
    assert best["skrepr"] > max(best["skorch"], best["MLPRegressor"]) - 0.03, best
    n_fits = 5 * len(scores["skrepr", 1])
    rows = []
    for name in contenders:
        one, two = medians[name, 1], medians[name, 2]
        rows.append(
            [
                name,
                *(f"{n_fits / time:.1f}" for time in (one, two)),
                f"{one / two:.2f}×",
                f"{n_fits / cold[name]:.1f}",
                f"{one / medians['skrepr', 1]:.2f}×",
                f"{best[name]:.3f}",
            ]
        )
    show(
        "GridSearchCV: fits a second of scaler, codes and logistic regression, 24 "
        "candidates, 5 folds, 2,000 × 32, 390 steps of an autoencoder",
        [
            "codes of",
            "one worker",
            "two workers",
            "two / one",
            "two, with their start",
            "skrepr / this, one worker",
            "best accuracy",
        ],
        rows,
    )


# Growth, memory and start, each in a process of its own.


def fresh(code, *arguments):
    """Run code in a new process; return what it prints as floats."""
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ
    )
    return [float(word) for word in done.stdout.split()]


GROWTH = """
import sys
from time import perf_counter
import numpy as np
from skrepr import AutoencoderTransformer

def memory(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key))

X = np.random.default_rng(0).normal(size=(int(sys.argv[1]), 32)).astype(np.float32)
AutoencoderTransformer(max_iter=1).fit(X[:1000])
before = memory("VmRSS")
with open("/proc/self/clear_refs", "w") as peaks:
    peaks.write("5")
start = perf_counter()
fitted = AutoencoderTransformer(random_state=0).fit(X)
time = perf_counter() - start
print(time / len(X) / fitted.n_iter_, 1024 * (memory("VmHWM") - before) / X.nbytes)
"""


def growth(repeats):
    sizes = [10_000, 30_000, 100_000, 300_000, 1_000_000]
    found = np.array([[fresh(GROWTH, n) for n in sizes] for _ in range(repeats)])
    per_row, peaks = np.median(found[:, :, 0], axis=0), found[:, :, 1].max(axis=0)
    rows = [
        [f"{n:,}", f"{1e6 * t:.3f}", f"{t / per_row[0]:.2f}", f"{peak:.2f}"]
        for n, t, peak in zip(sizes, per_row, peaks, strict=True)
    ]
    header = ["rows", "µs a row and epoch", "relative", "peak memory above X / X"]
    show("Growth: AutoencoderTransformer(), 32 columns float32", header, rows)


START = """
from time import perf_counter
start = perf_counter()
import torch, sklearn.base, sklearn.utils.validation, sklearn.model_selection
middle = perf_counter()
import skrepr
stop = perf_counter()
print(middle - start, stop - middle)
import numpy as np
X = np.random.default_rng(0).normal(size=(2000, 32)).astype(np.float32)
def fit(max_iter):
    start = perf_counter()
    skrepr.{name}(max_iter=max_iter, random_state=0).fit(X)
    return perf_counter() - start
first = fit(10)
print(first, float(np.median([fit(10) for _ in range(15)])))
"""


def start(repeats):
    rows = []
    for name in (estimator.__name__ for estimator in TRANSFORMERS):
        found = [fresh(START.replace("{name}", name)) for _ in range(repeats)]
        rows.append([name, *(f"{1e3 * t:.1f}" for t in np.median(found, axis=0))])
    show(
        "A fresh process, and fits of 80 steps on 2,000 × 32: milliseconds",
        [
            "estimator",
            "import torch and scikit-learn",
            "import skrepr then",
            "first fit",
            "warm fit",
        ],
        rows,
    )


SECTIONS = {
    section.__name__: section
    for section in (
        fit,
        busy,
        defaults,
        cost,
        inference,
        one_row,
        size,
        tables,
        whole_tables,
        search,
        growth,
        start,
    )
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{device}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"scikit-learn {sklearn.__version__}, numpy {np.__version__}"
    )
    for section in arguments.only:
        SECTIONS[section](arguments.repeats)


if __name__ == "__main__":
    main()
