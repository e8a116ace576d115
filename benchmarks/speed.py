"""How fast fits, scores and searches are, beside peers and beside the hardware.

    python benchmarks/speed.py [--only SECTION ...] [--repeats N]

Contenders take turns, and times are medians over the repeats (peak memory is the
largest): on a machine that is shared, ratios in a table mean more than its times.
"Limit" is the time of the matrix products alone, with the shapes of a step and by the
faster of torch and NumPy.

Sections: fit (the same network, data, batches, number of steps and optimiser for all),
defaults (each estimator as it comes), inference, search (GridSearchCV), growth (from
ten thousand to a million rows), start (imports, first fit, fixed costs).
"""

import argparse
import math
import os
import platform
import subprocess
import sys
from functools import partial
from itertools import pairwise
from time import perf_counter

import numpy as np
import sklearn
import torch
from _networks import Autoencoder, autoencoder, network
from sklearn.model_selection import GridSearchCV
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn import functional as F

from skrepr import AutoencoderTransformer, ContrastiveTransformer, VAETransformer
from skrepr.backbones import MLP

LEARNING_RATE = 1e-3
FIT = [  # rows, columns, hidden units, components, batch
    (2_000, 32, 64, 8, 128),
    (10_000, 32, 128, 16, 256),
    (10_000, 128, 256, 32, 256),
    (50_000, 64, 256, 32, 1_024),
]
STEPS = [14_400, 6_240, 1_560, 2_352]  # whole epochs with and without the last batch


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
    from skorch import NeuralNetRegressor

    net = NeuralNetRegressor(
        make,
        optimizer=torch.optim.Adam,
        lr=LEARNING_RATE,
        batch_size=batch,
        max_epochs=n_steps // math.ceil(len(X) / batch),
        iterator_train__shuffle=True,
        train_split=None,
        callbacks="disable",
        verbose=0,
    )
    net.fit(X, X)
    return net.module_, n_steps


def by_pyod(X, make, batch, n_steps):
    from pyod.models.auto_encoder import AutoEncoder

    class SameNetwork(AutoEncoder):
        def build_model(self):
            self.model = make()

    epochs = n_steps // (len(X) // batch)  # it drops the last, smaller batch
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
        augmentation=None,
        error_model="mean_squared",  # no other contender has a model of its errors
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


def fit(repeats):
    rows = []
    for (n, d, h, k, batch), n_steps in zip(FIT, STEPS, strict=True):
        X, sizes = table(n, d), [d, h, k, h, d]

        def make(d=d, h=h, k=k):
            torch.manual_seed(0)
            return autoencoder(d, h, k)

        peers = {
            "PyOD": by_pyod,
            "skorch": by_skorch,
            "DataLoader loop": dataloader_loop,
            "resident loop": plain_loop,
        }
        work = {
            name: lambda f=f, X=X, make=make, batch=batch, n=n_steps: f(
                X, make, batch, n
            )
            for name, f in peers.items()
        }
        work["skrepr"] = lambda X=X, a=(h, k, batch, n_steps): by_skrepr(X, *a)
        losses = {}
        for name, function in work.items():  # this also warms up
            net, steps = function()
            losses[name] = mean_squared_error(net, X)
            assert abs(steps / n_steps - 1) < 0.001, (name, steps, n_steps)
        spread = max(losses.values()) / min(losses.values())
        assert spread < 1.1, f"The contenders did not do the same: {losses}"
        for library in ("torch", "numpy"):
            work[library] = products(sizes, batch, n_steps, library)
        medians = interleave(work, repeats)
        limit = min(medians.pop("torch"), medians.pop("numpy"))
        own = medians["skrepr"]
        rows.append(
            [
                f"{n:,}, {d}, {h}, {k}, {batch:,}",
                *(
                    f"{1e6 * t / n_steps:,.0f} ({t / own:.1f}×)"
                    for name, t in medians.items()
                    if name != "skrepr"
                ),
                f"**{1e6 * own / n_steps:,.0f}**",
                f"{1e6 * limit / n_steps:,.0f}",
                f"{own / limit:.2f}",
                f"{spread - 1:.0%}",
            ]
        )
    header = ["rows, d, h, k, batch", *peers, "skrepr", "limit", "skrepr / limit"]
    show(
        "Fit of an autoencoder d-h-k-h-d: microseconds a step (times skrepr's)",
        [*header, "losses differ by"],
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
            with threadpool_limits(1):
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


# A search.


def search(repeats):
    from skorch import NeuralNetRegressor

    X = table(1_000, 20)
    components, widths, rates = [2, 4, 8], [32, 64, 96, 128], [1e-3, 3e-3]
    peer = NeuralNetRegressor(
        Autoencoder,
        optimizer=torch.optim.Adam,
        batch_size=64,
        max_epochs=50,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks="disable",
        verbose=0,
    )
    own = AutoencoderTransformer(
        augmentation=None,
        error_model="mean_squared",
        batch_size=64,
        max_iter=50,
        random_state=0,
    )
    scoring = "neg_mean_squared_error"
    searches = {
        "skorch": GridSearchCV(
            peer,
            {"module__k": components, "module__h": widths, "lr": rates},
            cv=5,
            n_jobs=2,
            scoring=scoring,
        ),
        "skrepr": GridSearchCV(
            own,
            {
                "n_components": components,
                "backbone__hidden_layer_sizes": [(h,) for h in widths],
                "learning_rate": rates,
            },
            cv=5,
            n_jobs=2,
        ),
    }
    first = {name: seconds(lambda s=s: s.fit(X, X)) for name, s in searches.items()}
    scores = {name: s.best_score_ for name, s in searches.items()}
    assert abs(scores["skrepr"] / scores["skorch"] - 1) < 0.1, scores
    medians = interleave(
        {name: lambda s=s: s.fit(X, X) for name, s in searches.items()}, repeats
    )
    rows = [["best score", *(f"{scores[s]:.4f}" for s in searches), ""]]
    for name, times in {"with workers at hand": medians, "the first": first}.items():
        ratio = times["skorch"] / times["skrepr"]
        cells = [f"{times[s]:.1f} s" for s in searches]
        rows.append([name, *cells, f"{ratio:.1f}×"])
    show(
        "GridSearchCV: 24 candidates, 5 folds, 1,000 × 20, n_jobs=2, 650 steps a fit",
        ["", *searches, "ratio"],
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
print(fit(10))
one, three = [float(np.median([fit(n) for _ in range(15)])) for n in (1, 3)]
print(fit(10), one - (three - one) / 2)
"""


def start(repeats):
    rows = []
    names = ["AutoencoderTransformer", "VAETransformer", "ContrastiveTransformer"]
    for name in names:
        found = [fresh(START.replace("{name}", name)) for _ in range(repeats)]
        rows.append([name, *(f"{1e3 * t:.1f}" for t in np.median(found, axis=0))])
    header = ["milliseconds", "import torch and scikit-learn", "import skrepr then"]
    show(
        "A fresh process, and fits of 80 steps on 2,000 × 32",
        [*header, "first fit", "warm fit", "of it beside the steps"],
        rows,
    )


SECTIONS = {f.__name__: f for f in (fit, defaults, inference, search, growth, start)}


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
