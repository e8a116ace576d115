"""Does an autoencoder fill holes better than the imputers of scikit-learn?

Tables of PMLB [1]_ without their target, of at least 900 rows and at most ``--columns``
columns. A table is subsampled to ``--rows`` rows; 70 % train, stratified by the target,
which then goes. A random 10 % or 30 % of all cells are removed, whatever they and their
neighbours held (MCAR), from the rows that train and from those held out. Every
contender is fitted on the former and fills the latter. The error is that of the removed
cells of the held-out rows, in standard deviations of the complete training column.

"mean" fills in the column's mean, "kNN" and "iterative" are `KNNImputer` and
`IterativeImputer` [2]_ with their defaults, on columns standardised by the cells that
are left. "AE" and "VAE" are this package's `impute`, with the defaults. "iterative,
trees" has boosted trees in place of the Bayesian ridge regression; it is slow, and not
among the default contenders.

Cells are the root mean squared error / the mean absolute error, means over the seeds:
lower is better. 1 / 0.8 is what the mean reaches where columns are normal; errors above
that of the mean say that cells cannot be guessed from the others, or that a few values
lie far out, which the root mean squared error takes to heart. The intervals of the
differences are bootstrapped over the tables, and after them stand the numbers of tables
on which the autoencoder is better and worse. A contender that fails on a table has nan
for its mean. For times to compare, leave ``--jobs`` at 1 and fix the number of threads
(``OMP_NUM_THREADS``).

How to run: put PMLB's ``.tsv.gz`` files (numbers; the column ``target`` is a class) in
a folder, then ::

    python benchmarks/imputation.py FOLDER --out imputation.md imputation.csv

The ``.csv`` holds every single result. ``--sets vowel ring``, ``--missing 10`` (per
cent) and ``--contenders mean kNN`` run a part, ``--contenders baselines`` what is not
of this package, ``--contenders slow`` what the default leaves out. A new contender is
one more line in `CONTENDERS`.

References
----------
.. [1] Olson et al., "PMLB: a large benchmark suite for machine learning evaluation and
   comparison", BioData Mining 2017. https://github.com/EpistasisLab/pmlb
.. [2] van Buuren and Groothuis-Oudshoorn, "mice: Multivariate Imputation by Chained
   Equations in R", Journal of Statistical Software 2011.
"""

import warnings
from functools import partial
from time import perf_counter

import numpy as np
from _report import differences, markdown, parse_arguments, run
from generation import eligible, load, split
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.preprocessing import StandardScaler

from skrepr import AutoencoderTransformer, VAETransformer

MEASURES = {
    "rmse": "root mean squared",
    "mae": "mean absolute",
    "fit_seconds": "fit",
    "impute_seconds": "impute",
}


class Standardised:
    """An imputer of scikit-learn between standardised columns."""

    def __init__(self, imputer):
        self.imputer = imputer

    def fit(self, X):
        self.scaler_ = StandardScaler().fit(X)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.imputer.fit(self.scaler_.transform(X))
        return self

    def impute(self, X):
        Z = self.imputer.transform(self.scaler_.transform(X))
        return self.scaler_.inverse_transform(Z)


def trees(seed):
    return IterativeImputer(
        HistGradientBoostingRegressor(random_state=seed),
        random_state=seed,
        keep_empty_features=True,
    )


# From a seed to an object with fit(X) and impute(X), of X with NaN.
CONTENDERS = {
    "mean": lambda seed: Standardised(SimpleImputer(keep_empty_features=True)),
    "kNN": lambda seed: Standardised(KNNImputer(keep_empty_features=True)),
    "iterative": lambda seed: Standardised(
        IterativeImputer(random_state=seed, keep_empty_features=True)
    ),
    "AE": lambda seed: AutoencoderTransformer(random_state=seed),
    "VAE": lambda seed: VAETransformer(random_state=seed),
    "iterative, trees": lambda seed: Standardised(trees(seed)),
}
GROUPS = {
    "default": ["mean", "kNN", "iterative", "AE", "VAE"],
    "baselines": ["mean", "kNN", "iterative"],
    "slow": ["iterative, trees"],
}


def punch(X, share, rng):
    """Return X with NaN in a random share of its cells."""
    return np.where(rng.uniform(size=X.shape) < share, np.nan, X)


def evaluate(model, X_train, X_test, truth, std):
    """Fit, fill, compare; return one value for each of `MEASURES`."""
    start = perf_counter()
    model.fit(X_train)
    fitted = perf_counter()
    filled = model.impute(X_test)
    done = perf_counter()
    errors = ((filled - truth) / std)[np.isnan(X_test)]
    rmse, mae = np.sqrt(np.mean(errors**2)), np.mean(np.abs(errors))
    return rmse, mae, fitted - start, done - fitted


def run_set(path, args):
    """Yield what is measured and the function that measures it."""
    table = load(path)
    for seed in args.seeds:
        train, test = (part[:, :-1] for part in split(table, args.rows, seed))
        std = StandardScaler().fit(train).scale_
        rng = np.random.default_rng(seed)
        for per_cent in args.missing:
            holed = [punch(X, per_cent / 100, rng) for X in (train, test)]
            for name in args.contenders:
                what = {"seed": seed, "setting": f"{per_cent} % missing"}
                what["contender"] = name
                yield what, partial(evaluate, CONTENDERS[name](seed), *holed, test, std)


def tabulate(results, setting):
    table = markdown(results, setting, MEASURES, count_wins=False)
    gains = differences(results, setting, MEASURES, "AE", lower_is_better=True)
    return f"{table}\n\n{gains}".strip()


if __name__ == "__main__":
    arguments = parse_arguments(
        __doc__, CONTENDERS, ".tsv.gz", GROUPS, rows=5000, columns=100, missing=[10, 30]
    )
    arguments.files = eligible(arguments)
    run(arguments, MEASURES, run_set, tabulate=tabulate)
