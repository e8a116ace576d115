"""
Strange rows, and the columns that make them strange
====================================================

*Which rows are strange, and why?* The rows are thirty measurements each of benign
breast tissue. In twelve of the rows to be judged one cell is in the wrong unit, so that
it is known what there is to find.
"""

# %%
# A table with wrong cells
# ------------------------
# 250 rows train the model. Of the other 107, the first twelve have a cell that somebody
# has taken for inches and turned into centimetres.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score

from skrepr import AutoencoderTransformer
from skrepr.inspection import FeatureContributionsDisplay

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
benign = X[y == 1].sample(frac=1, random_state=0)
train, new = benign[:250], benign[250:].copy()
n_wrong = 12
wrong = np.random.default_rng(0).permutation(X.shape[1])[:n_wrong]
for row, column in enumerate(wrong):
    new.iloc[row, column] *= 2.54

# %%
# Scores
# ------
# :class:`~skrepr.AutoencoderTransformer` learns what the columns of a normal row have
# to do with each other. ``score_samples`` says how well a row fits, the higher the
# better.

autoencoder = AutoencoderTransformer(random_state=0).fit(train)
scores = autoencoder.score_samples(new)
is_wrong = np.arange(len(new)) < n_wrong
print(f"ROC-AUC of the rows with a wrong cell: {roc_auc_score(is_wrong, -scores):.2f}")

# %%
# Because of which columns?
# -------------------------
# ``feature_contributions`` splits the score of every row into what each column
# contributes, and the sum is minus the score. Below are the twenty strangest rows; a
# circle is around the wrong cells.

contributions = autoencoder.feature_contributions(new)
strangest = scores.argsort()[:20]
figure, axis = plt.subplots(figsize=(9, 6.6), layout="constrained")
picture = axis.imshow(contributions[strangest], cmap="Blues", norm="asinh")
figure.colorbar(picture, label="contribution to the anomaly score", shrink=0.8)
for position, row in enumerate(strangest):
    if is_wrong[row]:
        axis.plot(
            wrong[row], position, "o", ms=15, mfc="none", mec="tab:orange", mew=2.5
        )
axis.set_xticks(range(X.shape[1]), X.columns, rotation=90, fontsize="small")
axis.set_yticks(range(20), [f"{scores[row]:.0f}" for row in strangest])
axis.set(ylabel="score of the row", title="The twenty strangest rows")
plt.show()

found = contributions[is_wrong].argmax(axis=1) == wrong
print(f"{found.sum()} of {n_wrong} wrong cells contribute most to their row's score")

# %%
# Some rows without a circle are strange as well: tissue has a tail, too. Whether a
# score is low enough to be called an outlier is for a threshold to say, see
# :ref:`sphx_glr_auto_examples_plot_thresholds.py`.
#
# One row
# -------
# :class:`~skrepr.inspection.FeatureContributionsDisplay` draws a single row with its
# values, by default the strangest. A column that goes with a wrong one may light up,
# too.

display = FeatureContributionsDisplay.from_estimator(autoencoder, new, max_features=8)
display.figure_.set_size_inches(8, 4)
display.figure_.set_layout_engine("constrained")
plt.show()
