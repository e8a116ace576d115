"""Are generated rows like real ones, of use in their place, and not copies of them?

Tables of PMLB [1]_, of at least 900 rows and at most ``--columns`` columns (which
leaves clean2 and mfeat_factors out). A table is subsampled to ``--rows`` rows; 70 % of
them train a generator, which then draws as many rows. The target takes part as one more
column, a categorical one. Splits are stratified by it.

Measures, higher is better unless said:

- *shape*: the mean over the columns of 1 - the Kolmogorov-Smirnov statistic, and of
  1 - the total variation of the target [2]_, between generated and held-out rows;
- *trend*: the mean over the pairs of columns of 1 - half the difference of their
  correlations [2]_ between generated and held-out rows, of Pearson's and Spearman's
  correlations alike; the target has a column for every class;
- *TSTR*, train on synthetic, test on real [3]_: the balanced accuracy on held-out rows
  of boosted trees that learn the target from generated rows, as a share of that of
  trees that learn it from the real ones. Where a class has some twenty rows, as in
  page_blocks, the trees can fail on either;
- *two-sample* [4]_: whether boosted trees, trained on a half of generated and training
  rows, as many of both, cannot tell those of the other half apart:
  1 - abs(2 ROC-AUC - 1). New real rows would get 1;
- *copying*: the share of generated rows that are nearer to a training row than to a
  held-out one, of as many of both. About 0.5 is none, and more is worse;
- *fit*, *sample*: seconds.

What they mean, the first contenders show. A "bootstrap" of the training rows is what
copying looks like: it loses on copying, and on two-sample, where the trees take a
training row for generated if they have seen its copies, and are misled so often that
their ROC-AUC falls below 0.5, which tells as much as one above. "marginals" draw every
column by itself: shape is blind to that. "Gaussian mixture" and "mixture per class"
have full covariances of standardised columns and as many components as BIC chooses
[5]_, "Gaussian copula" has empirical marginals, "SMOTE" [6]_ draws between a row and
one of its 5 nearest neighbours of its class. TVAE and CTGAN [7]_ are those of the
package ctgan, with its defaults; it is not among the dependencies of the benchmarks, as
it needs pandas < 3. The mixtures, SMOTE, TVAE and CTGAN round nothing, so that columns
of whole numbers give their rows away. The others are this package's: "VAE, prior"
decodes codes drawn from a standard normal distribution, "VAE, mixture" and "AE,
mixture" codes drawn from a Gaussian mixture fitted to those of the training rows.

Tables hold means over the seeds. Tables won are counted by the highest, ties shared.
The intervals of the differences are bootstrapped over the tables, and after them stand
the numbers of tables on which the variational autoencoder is better and worse. A
contender that fails on a table has nan for its mean. For times to compare, leave
``--jobs`` at 1 and fix the number of threads (``OMP_NUM_THREADS``).

How to run: put PMLB's ``.tsv.gz`` files (numbers; the column ``target`` is a class) in
a folder, then ::

    python benchmarks/generation.py FOLDER --out generation.md generation.csv

The ``.csv`` holds every single result, and three measures more: trend of either
correlation, and two-sample against the held-out rows, which shows less of what is a
copy. ``--sets vowel ring`` and ``--contenders SMOTE TVAE`` run a part, ``--contenders
baselines`` what needs neither this package nor ctgan. A new contender is one more line
in `CONTENDERS`.

References
----------
.. [1] Olson et al., "PMLB: a large benchmark suite for machine learning evaluation and
   comparison", BioData Mining 2017. https://github.com/EpistasisLab/pmlb
.. [2] Patki, Wedge and Veeramachaneni, "The Synthetic Data Vault", DSAA 2016; the
   measures are those of its package SDMetrics.
.. [3] Esteban, Hyland and Rätsch, "Real-valued (Medical) Time Series Generation with
   Recurrent Conditional GANs", arXiv 1706.02633 (2017).
.. [4] Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests", ICLR 2017.
.. [5] Schwarz, "Estimating the Dimension of a Model", Annals of Statistics 1978.
.. [6] Chawla et al., "SMOTE: Synthetic Minority Over-sampling Technique", JAIR 2002.
.. [7] Xu et al., "Modeling Tabular Data using Conditional GAN", NeurIPS 2019.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from time import perf_counter

import numpy as np
from _generation_measures import (
    copying,
    indicators,
    shape,
    trend,
    two_sample,
    utility,
)
from _report import by_set, differences, means, parse_arguments, run
from representation import load as load_columns
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from skrepr import AutoencoderTransformer, VAETransformer

MEASURES = {
    "shape": "shape",
    "trend": "trend",
    "tstr": "TSTR",
    "two_sample": "two-sample",
    "copying": "copying",
    "fit_seconds": "fit (s)",
    "sample_seconds": "sample (s)",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "two_sample_test": "two-sample, held-out rows",
}
# Those that the table of means shows, and those with a table of their own.
SUMMARY = {key: MEASURES[key] for key in list(MEASURES)[:7]}
BY_SET = {key: MEASURES[key] for key in ("tstr", "two_sample")}


def load(path):
    """Return the table, its target last and as codes 0, 1, ..."""
    X, y = load_columns(path)
    return np.column_stack([X, np.unique(y, return_inverse=True)[1]])


def eligible(args, least=900):
    """Return the files that hold at least 900 rows and at most ``--columns``."""
    files = {}
    for name, path in args.files.items():
        n_rows, n_columns = load(path).shape
        if n_rows >= least and n_columns - 1 <= args.columns:
            files[name] = path
    if not files:
        raise SystemExit("no table is long and narrow enough")
    return files


def split(table, max_rows, seed):
    """Return 70 % of at most `max_rows` rows to learn from, and the others."""
    draw = partial(train_test_split, random_state=seed)
    if len(table) > max_rows:
        table, _ = draw(table, train_size=max_rows, stratify=table[:, -1])
    return draw(table, test_size=0.3, stratify=table[:, -1])


class Bootstrap:
    """Real rows, drawn with replacement."""

    def fit(self, table):
        self.table_ = table
        return self

    def sample(self, n, rng):
        return self.table_[rng.integers(len(self.table_), size=n)]


class Marginals(Bootstrap):
    """Real values, every column drawn by itself."""

    def sample(self, n, rng):
        rows = rng.integers(len(self.table_), size=(n, self.table_.shape[1]))
        return np.take_along_axis(self.table_, rows, axis=0)


class Mixture:
    """A mixture of Gaussians, of as many components as BIC chooses.

    The number is doubled as long as BIC gets better. The target takes part as one
    column a class, of which the largest wins.
    """

    def fit(self, table):
        self.n_columns_ = table.shape[1] - 1
        n_classes = 1 + int(table[:, -1].max())
        self.scaler_ = StandardScaler().fit(table[:, :-1])
        Z = self.scaler_.transform(table[:, :-1])
        Z = np.column_stack([Z, indicators(table[:, -1], n_classes)])
        self.mixture_ = best_mixture(Z)
        return self

    def sample(self, n, rng):
        Z = draw_mixture(self.mixture_, n, rng)
        X, classes = np.split(Z, [self.n_columns_], axis=1)
        return np.column_stack(
            [self.scaler_.inverse_transform(X), classes.argmax(axis=1)]
        )


class MixturePerClass:
    """The same for every class by itself, and the shares of the classes."""

    def fit(self, table):
        self.scaler_ = StandardScaler().fit(table[:, :-1])
        Z = self.scaler_.transform(table[:, :-1])
        codes = table[:, -1].astype(int)
        self.shares_ = np.bincount(codes) / len(codes)
        self.mixtures_ = [best_mixture(Z[codes == k]) for k in np.unique(codes)]
        return self

    def sample(self, n, rng):
        counts = rng.multinomial(n, self.shares_)
        Z = [
            draw_mixture(mixture, count, rng)
            for mixture, count in zip(self.mixtures_, counts, strict=True)
        ]
        X = self.scaler_.inverse_transform(np.concatenate(Z))
        codes = np.repeat(np.arange(len(counts)), counts)
        return rng.permutation(np.column_stack([X, codes]))


def best_mixture(Z, most=64):
    """Fit 1, 2, 4, ... components until BIC no longer gets better.

    Where there are fewer than twice as many rows as columns there is one component,
    with more regularisation.
    """
    n, d = Z.shape
    few = n < 2 * d
    if n == 1:
        Z = np.repeat(Z, 2, axis=0)
    best, lowest, n_components = None, np.inf, 1
    while n_components <= (1 if few else min(most, n // 2)):
        mixture = GaussianMixture(
            n_components, reg_covar=0.1 if few else 1e-4, random_state=0
        ).fit(Z)
        bic = mixture.bic(Z)
        if bic >= lowest:
            break
        best, lowest, n_components = mixture, bic, 2 * n_components
    return best


def draw_mixture(mixture, n, rng):
    """Draw from a fitted mixture with a generator, in random order."""
    counts = rng.multinomial(n, mixture.weights_)
    rows = [
        rng.multivariate_normal(mean, covariance, count, method="cholesky")
        for mean, covariance, count in zip(
            mixture.means_, mixture.covariances_, counts, strict=True
        )
    ]
    return rng.permutation(np.concatenate(rows))


class Copula:
    """A Gaussian copula between the empirical marginals; the target by its codes.

    Normal scores of tied values share their mean rank.
    """

    def fit(self, table):
        self.table_ = np.sort(table, axis=0)
        scores = ndtri(rankdata(table, axis=0) / (len(table) + 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = np.nan_to_num(np.corrcoef(scores, rowvar=False))
        np.fill_diagonal(correlation, 1.0)
        self.correlation_ = correlation
        return self

    def sample(self, n, rng):
        d = len(self.correlation_)
        scores = rng.multivariate_normal(
            np.zeros(d), self.correlation_, n, method="eigh"
        )
        ranks = np.floor(ndtr(scores) * len(self.table_)).astype(int)
        ranks = ranks.clip(0, len(self.table_) - 1)
        return np.take_along_axis(self.table_, ranks, axis=0)


class SMOTE:
    """Points between a real row and one of its 5 nearest neighbours of its class."""

    def fit(self, table):
        self.table_ = table
        self.neighbours_ = np.empty((len(table), 5), dtype=int)
        Z = StandardScaler().fit_transform(table[:, :-1])
        for code in np.unique(table[:, -1]):
            rows = np.flatnonzero(table[:, -1] == code)
            if len(rows) == 1:
                self.neighbours_[rows] = rows
                continue
            k = min(5, len(rows) - 1)
            near = NearestNeighbors(n_neighbors=k).fit(Z[rows]).kneighbors()[1]
            self.neighbours_[rows] = rows[near[:, np.arange(5) % k]]
        return self

    def sample(self, n, rng):
        rows = rng.integers(len(self.table_), size=n)
        others = self.neighbours_[rows, rng.integers(5, size=n)]
        weights = rng.uniform(size=(n, 1))
        a, b = self.table_[rows], self.table_[others]
        return np.where(a == b, a, a + weights * (b - a))


@dataclass
class CTGANPackage:
    """A generator of the package ctgan with its default settings."""

    name: str
    seed: int

    def fit(self, table):
        self.model_ = getattr(import_module("ctgan"), self.name)(enable_gpu=False)
        self.model_.set_random_state(self.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model_.fit(table, discrete_columns=[table.shape[1] - 1])
        return self

    def sample(self, n, rng):
        self.model_.set_random_state(int(rng.integers(2**31)))
        return self.model_.sample(n)


@dataclass
class Skrepr:
    """A transformer of this package that samples, from a number of columns."""

    build: Callable

    def fit(self, table):
        self.model_ = self.build(table.shape[1] - 1).fit(table)
        return self

    def sample(self, n, rng):
        seed = int(rng.integers(2**31))
        return np.asarray(self.model_.sample(n, random_state=seed), dtype=float)


def skrepr(estimator, density):
    """Return a factory of generators whose last column is categorical."""
    return lambda seed: Skrepr(
        lambda target: estimator(
            latent_density=density, categorical_features=[target], random_state=seed
        )
    )


# From a seed to an object with fit(table) and sample(n, rng).
CONTENDERS = {
    "bootstrap": lambda seed: Bootstrap(),
    "marginals": lambda seed: Marginals(),
    "Gaussian mixture": lambda seed: Mixture(),
    "mixture per class": lambda seed: MixturePerClass(),
    "Gaussian copula": lambda seed: Copula(),
    "SMOTE": lambda seed: SMOTE(),
    "TVAE": lambda seed: CTGANPackage("TVAE", seed),
    "CTGAN": lambda seed: CTGANPackage("CTGAN", seed),
    "VAE, prior": skrepr(VAETransformer, "prior"),
    "VAE, mixture": skrepr(VAETransformer, "gaussian_mixture"),
    "AE, mixture": skrepr(AutoencoderTransformer, "gaussian_mixture"),
}
GROUPS = {
    "all": list(CONTENDERS),
    "baselines": list(CONTENDERS)[:6],
    "ctgan": ["TVAE", "CTGAN"],
    "skrepr": list(CONTENDERS)[8:],
}
NEEDS = {"TVAE": "ctgan", "CTGAN": "ctgan"}


def evaluate(model, train, test, ceiling, seed):
    """Fit, sample as many rows, compare; return one value for each of `MEASURES`."""
    start = perf_counter()
    model.fit(train)
    fitted = perf_counter()
    synthetic = model.sample(len(train), np.random.default_rng(seed))
    sampled = perf_counter()
    pearson, spearman = trend(test, synthetic)
    return (
        shape(test, synthetic),
        (pearson + spearman) / 2,
        utility(synthetic, test) / ceiling(),
        two_sample(train, synthetic, seed),
        copying(train, test, synthetic, seed),
        fitted - start,
        sampled - fitted,
        pearson,
        spearman,
        two_sample(test, synthetic, seed),
    )


def run_set(path, args):
    """Yield what is measured and the function that measures it."""
    table = load(path)
    for seed in args.seeds:
        train, test = split(table, args.rows, seed)
        ceiling = cache(partial(utility, train, test))
        for name in args.contenders:
            what = {"seed": seed, "setting": "generated rows", "contender": name}
            model = CONTENDERS[name](seed)
            yield what, partial(evaluate, model, train, test, ceiling, seed)


def tabulate(results, setting):
    """Write the means, tables of two measures, and the differences of these."""
    tables = [means(results, setting, SUMMARY)]
    tables += [by_set(results, setting, key, word) for key, word in BY_SET.items()]
    tables.append(differences(results, setting, BY_SET, "VAE, mixture"))
    return "\n\n".join(filter(None, tables))


if __name__ == "__main__":
    arguments = parse_arguments(
        __doc__, CONTENDERS, ".tsv.gz", GROUPS, NEEDS, rows=5000, columns=100
    )
    arguments.files = eligible(arguments)
    run(arguments, MEASURES, run_set, tabulate=tabulate)
