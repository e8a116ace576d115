"""What generated rows are judged by.

A table is an array of floats whose last column, the target, holds the codes 0, 1, ...
of classes. Nothing here is random but what an integer or a generator says.
"""

import numpy as np
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

__all__ = ["copying", "indicators", "shape", "trend", "two_sample", "utility"]


def indicators(codes, n_classes):
    """Return the one-hot columns of a target, of shape (n, n_classes)."""
    return np.eye(n_classes)[codes.astype(int)]


def count_classes(*tables):
    """Return the number of classes that the largest code needs."""
    return 1 + int(max(table[:, -1].max() for table in tables))


def shape(real, synthetic):
    """Compare the columns one by one.

    Returns
    -------
    float
        The mean over the columns of 1 - the Kolmogorov-Smirnov statistic, and for the
        target of 1 - the total variation.
    """
    similarities = []
    for a, b in zip(real.T[:-1], synthetic.T[:-1], strict=True):
        values = np.concatenate([a, b])
        shares = [
            np.searchsorted(np.sort(sample), values, side="right") / len(sample)
            for sample in (a, b)
        ]
        similarities.append(1 - np.abs(shares[0] - shares[1]).max())
    n_classes = count_classes(real, synthetic)
    shares = [indicators(t[:, -1], n_classes).mean(axis=0) for t in (real, synthetic)]
    similarities.append(1 - np.abs(shares[0] - shares[1]).sum() / 2)
    return np.mean(similarities)


def correlations(Z):
    """Return the Pearson correlation of every pair of columns, 0 of constant ones."""
    Z = Z - Z.mean(axis=0)
    norms = np.linalg.norm(Z, axis=0)
    constant = norms <= 1e-9 * np.sqrt(len(Z)) * (1 + np.abs(Z).max(axis=0))
    Z = np.where(constant, 0.0, Z / np.where(constant, 1.0, norms))
    return (Z.T @ Z)[np.triu_indices(Z.shape[1], k=1)]


def trend(real, synthetic):
    """Compare the correlations of all pairs of columns.

    The target takes part as one column a class, of two classes as a single one.

    Returns
    -------
    pearson, spearman : float
        The means over the pairs of 1 - half the difference of the correlations.
    """
    n_classes = count_classes(real, synthetic)
    first = n_classes == 2
    tables = [
        np.column_stack([t[:, :-1], indicators(t[:, -1], n_classes)[:, first:]])
        for t in (real, synthetic)
    ]

    def similarity(of):
        a, b = (correlations(of(table)) for table in tables)
        return 1 - np.abs(a - b).mean() / 2

    return similarity(lambda Z: Z), similarity(lambda Z: rankdata(Z, axis=0))


def utility(train, test):
    """Return the balanced accuracy, on `test`, of boosted trees trained on `train`."""
    predicted = np.full(len(test), train[0, -1])
    if np.ptp(train[:, -1]) > 0:
        model = HistGradientBoostingClassifier(random_state=0)
        predicted = model.fit(train[:, :-1], train[:, -1]).predict(test[:, :-1])
    return balanced_accuracy_score(test[:, -1], predicted)


def two_sample(real, synthetic, seed=0):
    """Let boosted trees try to tell synthetic rows from real ones.

    They are trained on a half of as many rows of the one as of the other, drawn at
    random from the larger table, and judged on the other half.

    Returns
    -------
    float
        1 - abs(2 ROC-AUC - 1): 1 if they cannot, 0 if they always can.
    """
    rng = np.random.default_rng(seed)
    n = min(len(real), len(synthetic))
    rows = np.concatenate([draw(table, n, rng) for table in (real, synthetic)])
    labels = np.repeat([0, 1], n)
    X_train, X_test, y_train, y_test = train_test_split(
        rows, labels, test_size=0.5, stratify=labels, random_state=seed
    )
    model = HistGradientBoostingClassifier(
        categorical_features=[rows.shape[1] - 1], random_state=0
    )
    scores = model.fit(X_train, y_train).decision_function(X_test)
    return 1 - abs(2 * roc_auc_score(y_test, scores) - 1)


def draw(table, n, rng):
    """Return `n` different rows."""
    return table if len(table) == n else table[rng.permutation(len(table))[:n]]


def copying(train, test, synthetic, seed=0):
    """Return the share of synthetic rows nearer to a training than to a held-out row.

    Distances are Euclidean, between columns standardised by the training rows; those
    of the target are 0 or 1. The larger set of real rows is subsampled to the size of
    the smaller, so that about 0.5 is what rows reach that know neither; ties count
    half.
    """
    n_classes = count_classes(train, test, synthetic)
    scaler = StandardScaler().fit(train[:, :-1])

    def coordinates(table):
        classes = indicators(table[:, -1], n_classes) / np.sqrt(2)
        return np.column_stack([scaler.transform(table[:, :-1]), classes])

    rng = np.random.default_rng(seed)
    n = min(len(train), len(test))
    Z = coordinates(synthetic)
    distances = []
    for table in (train, test):
        known = coordinates(draw(table, n, rng))
        nearest = NearestNeighbors(n_neighbors=1).fit(known).kneighbors(Z)[1][:, 0]
        # Once more, since brute force computes them from squares, which spoils ties.
        distances.append(np.linalg.norm(Z - known[nearest], axis=1))
    to_train, to_test = distances
    ties = np.isclose(to_train, to_test, rtol=1e-9, atol=1e-9)
    return np.where(ties, 0.5, to_train < to_test).mean()
