"""
From scores to outliers: a threshold, and p-values
==================================================

*From which score on is a row an outlier?* A score orders rows. Where to draw the line
depends on how many false alarms one can live with, and p-values say how many that will
be. Benign breast tissue is what is normal here; malignant tissue is new to the model.
"""

# %%
# A detector with rows of its own to compare with
# -----------------------------------------------
# A network scores the rows that it has learned from too well: they are no measure for
# new ones. With ``calibration=0.4``, :class:`~skrepr.OutlierDetector` fits the model on
# 60 % of the rows and keeps the others for comparison.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer

from skrepr import AutoencoderTransformer, OutlierDetector
from skrepr.inspection import ScoreDistributionDisplay

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
tissue = y.map({0: "malignant", 1: "benign"})
train = X[y == 1].sample(250, random_state=0)
new = X.drop(train.index)
is_benign = tissue[new.index] == "benign"

detector = OutlierDetector(
    AutoencoderTransformer(random_state=0), contamination=0.05, calibration=0.4
).fit(train)
print(f"{len(detector.calibration_scores_)} of {len(train)} rows were held out")

# %%
# P-values
# --------
# ``p_values`` compares the score of a row with those of the rows held out: the p-value
# is the share of them, the row itself counted among them, that score no higher.
# Whatever the model, normal rows have every p-value equally often, on average over what
# rows happen to be held out: in a single fit it is more or less. Outliers mostly have
# small ones. With n rows held out no p-value is below 1 / (n + 1).

p = detector.p_values(new)
levels = np.linspace(0, 1, 201)
figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
for name, of_kind, colour in (
    ("malignant", ~is_benign, "tab:orange"),
    ("benign", is_benign, "tab:blue"),
):
    shares = (p[of_kind, None] <= levels).mean(axis=0)
    axis.step(levels, shares, where="post", color=colour, lw=2, label=f"new, {name}")
axis.plot(levels, levels, color="0.6", ls="--", label="every p-value equally often")
axis.axvline(0.05, color="0.3", ls=":", label="level 0.05")
axis.set(xlabel="p-value", ylabel="share of rows with this p-value or a lower one")
axis.legend(loc="lower right")
plt.show()

for level in (0.01, 0.05, 0.2):
    benign, malignant = ((p[some] <= level).mean() for some in (is_benign, ~is_benign))
    print(
        f"p <= {level:4}: {benign:4.0%} of new benign rows, {malignant:4.0%} of others"
    )

# %%
# A threshold
# -----------
# ``predict`` asks whether a score lies below ``offset_``. ``contamination=0.05`` has
# put it where 5 % of the rows held out are below it.
# :class:`~skrepr.inspection.ScoreDistributionDisplay` draws both.

figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
ScoreDistributionDisplay.from_estimator(
    detector, new, tissue[new.index], ax=axis, bins=120
)
plt.show()

flagged = detector.predict(new) == -1
print(f"{flagged[is_benign].mean():.0%} of the new benign rows are flagged,")
print(f"{flagged[~is_benign].mean():.0%} of the malignant ones")
