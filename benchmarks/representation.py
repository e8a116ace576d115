"""Is a learned embedding better than raw columns and than an untrained network?

Tables of PMLB [1]_. One half of the rows, without labels, trains the transformer; its
frozen embedding then feeds a logistic regression and 5 nearest neighbours, fitted on
the labels of that half, all of them or 10 % (at least one row a class), and judged by
balanced accuracy on the other half. A table is subsampled to ``--rows`` rows; columns
are standardised by the training half, and so is the embedding. Splits are stratified.

All contenders have ``--width`` components, save the raw columns, which keep their own
number, and PCA, which cannot have more than that. The untrained MLP, of the shape of
skrepr's encoders, is averaged over 3 initialisations: what it reaches is owed to its
non-linear features and not to learning.

Cells are logistic regression / 5 nearest neighbours, means over the seeds; tables won
are counted by each of the two, ties shared. A contender that fails on a table has nan
for its mean. The untrained MLP's seconds are those of one initialisation.

How to run: put PMLB's ``.tsv.gz`` files (numbers; the column ``target`` is y) in a
folder, then ::

    python benchmarks/representation.py FOLDER --out repr.md repr.csv

The ``.csv`` holds every single result. ``--sets vowel wdbc`` and ``--contenders raw
PCA`` run a part. A new contender is one more line in `CONTENDERS`.

References
----------
.. [1] Olson et al., "PMLB: a large benchmark suite for machine learning evaluation and
   comparison", BioData Mining 2017. https://github.com/EpistasisLab/pmlb
"""

import gzip
from functools import cache, partial
from itertools import pairwise
from time import perf_counter

import numpy as np
import torch
from _report import parse_arguments, run
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch.nn.utils import skip_init

from skrepr import AutoencoderTransformer, ContrastiveTransformer, VAETransformer

SHARES = {"all labels": 1.0, "10 % of the labels": 0.1}
MEASURES = {
    "logistic": "logistic",
    "neighbours": "5-NN",
    "fit_seconds": "fit",
    "transform_seconds": "transform",
}


def load(path):
    """Return the columns and y."""
    with gzip.open(path, "rt") as file:
        target = file.readline().rstrip("\r\n").split("\t").index("target")
        table = np.loadtxt(file, delimiter="\t", ndmin=2)
    return np.delete(table, target, axis=1), table[:, target]


def halves(X, y, max_rows, seed):
    """Return X_train, X_test, y_train, y_test, the columns standardised."""
    if len(y) > max_rows:
        X, _, y, _ = train_test_split(
            X, y, train_size=max_rows, stratify=y, random_state=seed
        )
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.5, stratify=y, random_state=seed
    )
    scaler = StandardScaler().fit(X_train)
    return scaler.transform(X_train), scaler.transform(X_test), y_train, y_test


def labelled(y, share, rng):
    """Draw a share of the rows of every class, at least one."""
    rows = [rng.permutation(np.flatnonzero(y == label)) for label in np.unique(y)]
    return np.concatenate([r[: max(1, round(share * len(r)))] for r in rows])


def embed(transformer, X_train, X_test):
    """Fit without y; return both embeddings, standardised, and the two times."""
    start = perf_counter()
    transformer.fit(X_train)
    fitted = perf_counter()
    Z_train, Z_test = transformer.transform(X_train), transformer.transform(X_test)
    done = perf_counter()
    scaler = StandardScaler().fit(Z_train)
    seconds = fitted - start, done - fitted
    return scaler.transform(Z_train), scaler.transform(Z_test), seconds


def probe(embedding, y_train, y_test, rows):
    """Fit both classifiers on the labels of `rows`; return all of `MEASURES`."""
    Z_train, Z_test, seconds = embedding()
    neighbours = KNeighborsClassifier(min(5, len(rows)))
    accuracies = []
    for classifier in (LogisticRegression(max_iter=1000), neighbours):
        predicted = classifier.fit(Z_train[rows], y_train[rows]).predict(Z_test)
        accuracies.append(balanced_accuracy_score(y_test, predicted))
    return *accuracies, *seconds


class UntrainedMLP(BaseEstimator):
    """An encoder with two hidden layers of 256 as He's initialisation leaves it."""

    def __init__(self, width, seed):
        self.width = width
        self.seed = seed

    def fit(self, X, y=None):
        generator = torch.Generator().manual_seed(self.seed)
        layers = []
        for n_in, n_out in pairwise([X.shape[1], 256, 256, self.width]):
            linear = skip_init(torch.nn.Linear, n_in, n_out)
            torch.nn.init.kaiming_normal_(
                linear.weight, nonlinearity="relu", generator=generator
            )
            torch.nn.init.zeros_(linear.bias)
            layers += [linear, torch.nn.ReLU()]
        self.encoder_ = torch.nn.Sequential(*layers[:-1])
        return self

    @torch.no_grad()
    def transform(self, X):
        return self.encoder_(torch.as_tensor(X, dtype=torch.float32)).numpy()


# From a seed, a width and the number of columns to an object with fit and transform.
CONTENDERS = {
    "raw": lambda seed, width, d: FunctionTransformer(),
    "PCA": lambda seed, width, d: PCA(min(width, d), random_state=seed),
    "Nystroem": lambda seed, width, d: Nystroem(n_components=width, random_state=seed),
    "untrained": lambda seed, width, d: UntrainedMLP(width, seed),
    "Autoencoder": lambda seed, width, d: AutoencoderTransformer(
        width, random_state=seed
    ),
    "VAE": lambda seed, width, d: VAETransformer(width, random_state=seed),
    "Contrastive": lambda seed, width, d: ContrastiveTransformer(
        width, random_state=seed
    ),
}
DRAWS = {"untrained": 3}


def run_set(path, args):
    """Yield what is measured and the function that measures it."""
    X, y = load(path)
    for seed in args.seeds:
        X_train, X_test, y_train, y_test = halves(X, y, args.rows, seed)
        rng = np.random.default_rng(seed)
        rows = {name: labelled(y_train, share, rng) for name, share in SHARES.items()}
        for name in args.contenders:
            for draw in range(DRAWS.get(name, 1)):
                model = CONTENDERS[name](seed + 1000 * draw, args.width, X.shape[1])
                embedding = cache(partial(embed, model, X_train, X_test))
                for share in SHARES:
                    what = {"seed": seed, "setting": share, "contender": name}
                    what["draw"] = draw
                    yield what, partial(probe, embedding, y_train, y_test, rows[share])


if __name__ == "__main__":
    arguments = parse_arguments(__doc__, CONTENDERS, ".tsv.gz", rows=6000, width=16)
    run(arguments, SHARES, MEASURES, run_set)
