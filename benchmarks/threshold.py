"""How often does the default threshold raise an alarm over a normal row?

`OutlierDetector` is fitted under the two protocols of ``anomaly.py``, on the same rows
of the same sets of ADBench: on a random half of the normal rows, or on all rows. It
never sees a label. Cells are the shares of the scored normal rows and of the anomalies
that are flagged, in per cent, means over the seeds.

"auto" is ``contamination="auto"``; "p <= 0.05" holds 30 % of the training rows out
(``calibration=0.3``) and flags rows whose p-value is at most 0.05.

How to run: see ``anomaly.py``; ::

    python benchmarks/threshold.py FOLDER --out threshold.md threshold.csv
"""

from functools import partial
from time import perf_counter

import numpy as np
from _report import parse_arguments, run
from anomaly import PROTOCOLS, split, subsample

from skrepr import AutoencoderTransformer, OutlierDetector, VAETransformer

MEASURES = {
    "false_alarms": "% of normal rows flagged",
    "detections": "% of anomalies flagged",
    "fit_seconds": "fit",
    "score_seconds": "score",
}


def automatic(model):
    return OutlierDetector(model), lambda detector, X: detector.predict(X) == -1


def conformal(model):
    detector = OutlierDetector(model, calibration=0.3)
    return detector, lambda detector, X: detector.p_values(X) <= 0.05


# From a seed and the share of the training rows to suspect to a detector, and to the
# function that tells which rows it flags.
CONTENDERS = {
    "Autoencoder, auto": lambda seed, trim: automatic(
        AutoencoderTransformer(trim=trim, random_state=seed)
    ),
    "VAE, auto": lambda seed, trim: automatic(
        VAETransformer(trim=trim, random_state=seed)
    ),
    "Autoencoder, p <= 0.05": lambda seed, trim: conformal(
        AutoencoderTransformer(trim=trim, random_state=seed)
    ),
}


def evaluate(detector, flag, X_train, X_test, y_test):
    """Fit, flag, compare with the labels; return one value for each of `MEASURES`."""
    start = perf_counter()
    detector.fit(X_train)
    fitted = perf_counter()
    flagged = flag(detector, X_test)
    scored = perf_counter()
    rates = [100 * flagged[y_test == label].mean() for label in (0, 1)]
    return *rates, fitted - start, scored - fitted


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
                yield what, partial(evaluate, *CONTENDERS[name](seed, trim), *data)


if __name__ == "__main__":
    arguments = parse_arguments(__doc__, CONTENDERS, ".npz", rows=10_000)
    run(arguments, MEASURES, run_set, count_wins=False)
