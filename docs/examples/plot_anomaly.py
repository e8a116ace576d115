"""
Anomaly scores
==============

From a table to a list of suspects: scores, a threshold, an explanation, p-values, and
what to do when the training rows hold outliers themselves. The table is the breast
cancer data that ship with scikit-learn: thirty measurements of cells. Benign samples
are what is normal here; the labels only serve to judge what comes out.
"""

# %%
# Scores
# ------
# The first half of the benign samples is the training set. The other half and all the
# malignant samples are new. A score needs one line; the higher, the more normal.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from skrepr import AutoencoderTransformer, OutlierDetector
from skrepr.inspection import FeatureContributionsDisplay, ScoreDistributionDisplay

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
order = np.random.default_rng(0).permutation(len(X))
X, malignant = X.iloc[order], y.iloc[order] == 0
benign = X[~malignant]
train, new = benign[:178], X.drop(benign.index[:178])
is_malignant = malignant[new.index]

autoencoder = AutoencoderTransformer(random_state=0).fit(train)
scores = autoencoder.score_samples(new)

scaler = StandardScaler().fit(train)
neighbours = NearestNeighbors(n_neighbors=5).fit(scaler.transform(train))
others = {
    "autoencoder": scores,
    "5 nearest neighbours": -neighbours.kneighbors(scaler.transform(new))[0][:, -1],
    "isolation forest": IsolationForest(random_state=0).fit(train).score_samples(new),
}
for name, values in others.items():
    print(f"ROC-AUC {roc_auc_score(is_malignant, -values):.3f}  {name}")

# %%
# A threshold
# -----------
# `OutlierDetector` adds a threshold: by default one that normal new rows rarely cross.

detector = OutlierDetector(AutoencoderTransformer(random_state=0)).fit(train)
flagged = detector.predict(new) == -1
print(f"flagged: {flagged[~is_malignant].mean():.1%} of the new benign samples,")
print(f"         {flagged[is_malignant].mean():.1%} of the malignant ones")
groups = np.where(is_malignant, "malignant", "benign")
ScoreDistributionDisplay.from_estimator(detector, new, groups)
plt.show()

# %%
# P-values say how rarely a normal row scores as low. A part of the training rows is
# held out for them; of new benign samples one in twenty, on average, has a p-value up
# to 0.05.

detector = OutlierDetector(AutoencoderTransformer(random_state=0), calibration=0.5)
suspicious = detector.fit(train).p_values(new) <= 0.05
print(f"p <= 0.05: {suspicious[~is_malignant].mean():.1%} of the new benign samples,")
print(f"           {suspicious[is_malignant].mean():.1%} of the malignant ones")

# %%
# An explanation
# --------------
# The contributions of the features sum to minus the score. These are those of the
# strangest row.

FeatureContributionsDisplay.from_estimator(autoencoder, new)
plt.show()

# %%
# Contaminated training rows
# --------------------------
# Often nobody has sorted the outliers out: they are among the training rows, and the
# question is which rows they are. Here every sixth row is malignant. An autoencoder
# learns to reconstruct them, too; ``trim`` tells it to suspect a share of its training
# rows. It need not be the true share, which nobody knows.

mixed = np.concatenate([np.flatnonzero(~malignant), np.flatnonzero(malignant)[:71]])
X_mixed, y_mixed = X.iloc[mixed], malignant.iloc[mixed]
for error_model in ("mean_squared", "covariance"):
    for trim in (0.0, 0.2):
        model = AutoencoderTransformer(
            error_model=error_model, trim=trim, random_state=0
        ).fit(X_mixed)
        area = roc_auc_score(y_mixed, -model.score_samples(X_mixed))
        print(f"ROC-AUC {area:.3f}  error_model={error_model!r}, trim={trim}")
