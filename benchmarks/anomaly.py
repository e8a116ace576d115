"""Do skrepr's default anomaly scores hold up against the classical detectors?

One fixed configuration of every contender on every set of ADBench [1]_, under the two
protocols that are often confused:

- *novelty*: fit on a random half of the normal rows, score the other half and all
  anomalies;
- *outlier*: fit on all rows, score the same rows.

The same objects take part in both. All that a protocol tells one of them is whether
the training rows are contaminated, and only those of this package have a parameter for
it: ``trim``, 0 for novelty, and 0.2 for outlier on every set, whatever its share of
anomalies.

At most ``--rows`` rows a set, drawn anew for every seed at the set's own share of
anomalies (but at least 5 of them). Rows are split before anything is fitted and never
duplicated; contenders get raw columns and never a label. The neighbour methods leave a
row out of its own neighbours where they score the rows they were fitted on.

Cells are ROC-AUC / average precision, means over the seeds; sets won are counted by
each of the two, ties shared. The intervals of the differences are bootstrapped over the
sets, and after them stand the numbers of sets on which the autoencoder is better and
worse. A contender that fails on a set has nan for its mean. The times to fit of PyOD's
detectors include the scores of the training rows, which they always compute. For times
to compare, fix the number of threads (``OMP_NUM_THREADS``).

How to run: put ADBench's ``Classical/*.npz`` (``X``, and ``y`` = 1 for anomalies) in a
folder, then ::

    python benchmarks/anomaly.py FOLDER --out anomaly.md anomaly.csv

The ``.csv`` holds every single result. ``--sets glass wine`` and ``--contenders kNN
PCA`` run a part, and ``--contenders ablation`` compares the default autoencoder with
others that lack one of its ingredients. A new contender is one more line in
`CONTENDERS`. Three of them need PyOD.

References
----------
.. [1] Han et al., "ADBench: Anomaly Detection Benchmark", NeurIPS 2022.
   https://github.com/Minqi824/ADBench
"""

import warnings
from functools import partial
from importlib import import_module
from time import perf_counter

import numpy as np
from _report import parse_arguments, run
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skrepr import AutoencoderTransformer, VAETransformer
from skrepr.augmentations import GaussianNoise
from skrepr.backbones import MLP
from skrepr.error_models import Covariance

# The protocols, and the share of the training rows to suspect in them.
PROTOCOLS = {"novelty": 0.0, "outlier": 0.2}
MEASURES = {
    "roc_auc": "ROC-AUC",
    "average_precision": "average precision",
    "fit_seconds": "fit",
    "score_seconds": "score",
}


def subsample(X, y, max_rows, rng, min_anomalies=5):
    """Draw at most `max_rows` rows, in random order."""
    keep = np.arange(len(y))
    if len(y) > max_rows:
        anomalies, normals = keep[y == 1], keep[y == 0]
        n_anomalies = max(round(max_rows * len(anomalies) / len(y)), min_anomalies)
        n_anomalies = min(n_anomalies, len(anomalies))
        anomalies = rng.choice(anomalies, n_anomalies, replace=False)
        normals = rng.choice(normals, max_rows - n_anomalies, replace=False)
        keep = np.concatenate([anomalies, normals])
    keep = rng.permutation(keep)
    return X[keep].astype(np.float64), y[keep]


def split(X, y, protocol, rng):
    """Return the rows to fit on, the rows to score and the labels of the latter."""
    if protocol == "outlier":
        return X, X, y
    normals = rng.permutation(np.flatnonzero(y == 0))
    half = len(normals) // 2
    test = np.concatenate([normals[half:], np.flatnonzero(y == 1)])
    return X[normals[:half]], X[test], y[test]


def evaluate(model, X_train, X_test, y_test):
    """Fit, score, compare with the labels; return one value for each of `MEASURES`."""
    start = perf_counter()
    model.fit(X_train)
    fitted = perf_counter()
    detector = model[-1] if isinstance(model, Pipeline) else model
    if X_test is X_train and hasattr(detector, "score_fitted"):
        scores = detector.score_fitted()
    else:
        scores = model.score_samples(X_test)
    scored = perf_counter()
    auc = roc_auc_score(y_test, -scores)
    precision = average_precision_score(y_test, -scores)
    return auc, precision, fitted - start, scored - fitted


class NeighbourDistance(BaseEstimator):
    """Minus the distance to the 5th-nearest training row."""

    def fit(self, X, y=None):
        self.neighbours_ = NearestNeighbors(n_neighbors=5).fit(X)
        return self

    def score_samples(self, X):
        return -self.neighbours_.kneighbors(X)[0][:, -1]

    def score_fitted(self):
        return -self.neighbours_.kneighbors()[0][:, -1]


class LocalOutlier(LocalOutlierFactor):
    """scikit-learn's, for new rows and for those it was fitted on."""

    def score_fitted(self):
        return self.negative_outlier_factor_


def scaled(detector):
    return make_pipeline(StandardScaler(), detector)


class PyOD(BaseEstimator):
    """A detector of PyOD with its default settings: the higher, the more normal."""

    def __init__(self, path, options):
        self.path = path
        self.options = options

    def fit(self, X, y=None):
        module, name = self.path.rsplit(".", 1)
        detector = getattr(import_module(module), name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.detector_ = detector(**self.options).fit(X)
        return self

    def score_samples(self, X):
        return -self.detector_.decision_function(X)

    def score_fitted(self):
        return -self.detector_.decision_scores_


def pyod(path, **options):
    return PyOD(f"pyod.models.{path}", options)


# From a seed and the share of the training rows to suspect to an object with fit(X) and
# score_samples(X), higher = more normal.
CONTENDERS = {
    "kNN": lambda seed, trim: scaled(NeighbourDistance()),
    "LOF": lambda seed, trim: scaled(LocalOutlier(novelty=True)),
    "IForest": lambda seed, trim: scaled(IsolationForest(random_state=seed)),
    "PCA": lambda seed, trim: scaled(PCA(n_components=0.9, random_state=seed)),
    "ECOD": lambda seed, trim: pyod("ecod.ECOD"),
    "PyOD AutoEncoder": lambda seed, trim: pyod(
        "auto_encoder.AutoEncoder", random_state=seed, verbose=0
    ),
    "PyOD VAE": lambda seed, trim: pyod("vae.VAE", random_state=seed, verbose=0),
    "Autoencoder": lambda seed, trim: AutoencoderTransformer(
        trim=trim, random_state=seed
    ),
    "VAE": lambda seed, trim: VAETransformer(trim=trim, random_state=seed),
}


def variant(**params):
    """Return a factory of autoencoders that differ from the default in parameters."""
    return lambda seed, trim: AutoencoderTransformer(
        **{"trim": trim, "random_state": seed, **params}
    )


ABLATION = {
    "without noise": variant(augmentation=None),
    "noise of one scale": variant(augmentation=GaussianNoise(scale=0.5)),
    "one reconstruction": variant(error_model=Covariance(n_reconstructions=1)),
    "diagonal": variant(error_model="diagonal"),
    "mean squared": variant(error_model="mean_squared"),
    "shrinkage 0.01": variant(error_model=Covariance(shrinkage=0.01)),
    "untrimmed": variant(trim=0.0),
    "untrained": variant(learning_rate=1e-12),
    "width 256": variant(backbone=MLP((256, 256))),
}
CONTENDERS |= ABLATION
GROUPS = {
    "detectors": [name for name in CONTENDERS if name not in ABLATION],
    "ablation": ["Autoencoder", *ABLATION],
}


def run_set(path, args):
    """Yield what is measured and the function that measures it."""
    with np.load(path) as data:
        X_all, y_all = data["X"], data["y"]
    for seed in args.seeds:
        rng = np.random.default_rng(seed)
        X, y = subsample(X_all, y_all, args.rows, rng)
        for protocol, trim in PROTOCOLS.items():
            data = split(X, y, protocol, rng)
            for name in args.contenders:
                what = {"seed": seed, "setting": protocol, "contender": name}
                yield what, partial(evaluate, CONTENDERS[name](seed, trim), *data)


if __name__ == "__main__":
    arguments = parse_arguments(__doc__, CONTENDERS, ".npz", GROUPS, rows=10_000)
    for name in arguments.contenders:  # what a process does once is not to be timed
        CONTENDERS[name](0, 0.0).fit(np.random.default_rng(0).normal(size=(99, 3)))
    run(arguments, MEASURES, run_set, ours="Autoencoder")
