"""Does pre-training without labels help a classifier, and is it worth its while?

The tables, halves and labelled rows of ``representation.py``: one half of the rows
trains, all of them or 10 % (at least one a class) with their labels, and the other half
judges. The pre-trained classifier is `FineTunedClassifier` over a
`ContrastiveTransformer` that learns from all training rows, labelled or not. "from
scratch" is the same in all but that its transformer makes no step worth the name (one
epoch at a learning rate of 1e-12): the same network, its fine-tuning of as many steps
and the same standardised columns. The other contenders see the labelled rows only.

Cells are balanced accuracy / accuracy, means over the seeds; tables won are counted by
each of the two, ties shared. The intervals of the differences are bootstrapped over the
tables, and after them stand the numbers of tables on which the pre-trained classifier
is better and worse. A contender that fails on a table has nan for its mean. Seconds
include the pre-training. For times to compare, leave ``--jobs`` at 1 and fix the number
of threads (``OMP_NUM_THREADS``).

How to run: see ``representation.py``; ::

    python benchmarks/fine_tuning.py FOLDER --out tuning.md tuning.csv
"""

from functools import partial
from time import perf_counter

import numpy as np
from _report import parse_arguments, run
from representation import SHARES, halves, hide, labelled, load
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.neural_network import MLPClassifier

from skrepr import ContrastiveTransformer, FineTunedClassifier

MEASURES = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "fit_seconds": "fit",
    "predict_seconds": "predict",
}


def fine_tuned(seed, width, **params):
    transformer = ContrastiveTransformer(width, random_state=seed, **params)
    return FineTunedClassifier(transformer, random_state=seed)


# From a seed and the width of the code to a classifier.
CONTENDERS = {
    "logistic": lambda seed, width: LogisticRegression(max_iter=1000),
    "HistGradientBoosting": lambda seed, width: HistGradientBoostingClassifier(
        random_state=seed
    ),
    "MLPClassifier": lambda seed, width: MLPClassifier(random_state=seed),
    "from scratch": lambda seed, width: fine_tuned(
        seed, width, max_iter=1, learning_rate=1e-12
    ),
    "pre-trained": fine_tuned,
}


def evaluate(model, X_train, X_test, y_train, y_test, known):
    """Fit, predict, compare; return one value for each of `MEASURES`."""
    if isinstance(model, FineTunedClassifier):
        X, y = X_train, hide(y_train, known)
    else:
        X, y = X_train[known], y_train[known]
    start = perf_counter()
    model.fit(X, y)
    fitted = perf_counter()
    predicted = model.predict(X_test)
    done = perf_counter()
    scores = [
        score(y_test, predicted) for score in (balanced_accuracy_score, accuracy_score)
    ]
    return *scores, fitted - start, done - fitted


def run_set(path, args):
    """Yield what is measured and the function that measures it."""
    X, y = load(path)
    for seed in args.seeds:
        data = halves(X, y, args.rows, seed)
        y_train = data[2]
        rng = np.random.default_rng(seed)
        for share, part in SHARES.items():
            known = labelled(y_train, part, rng)
            for name in args.contenders:
                model = CONTENDERS[name](seed, args.width)
                what = {"seed": seed, "setting": share, "contender": name}
                yield what, partial(evaluate, model, *data, known)


if __name__ == "__main__":
    arguments = parse_arguments(__doc__, CONTENDERS, ".tsv.gz", rows=6000, width=16)
    run(arguments, MEASURES, run_set, ours="pre-trained")
