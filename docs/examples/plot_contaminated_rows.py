"""
When the training rows hold outliers
====================================

*What if nobody has sorted the rows?* A network learns to reconstruct whatever it is
trained on, outliers included. ``trim`` makes it suspicious of the rows that lie
farthest out. With two columns one can see what it changes.
"""

# %%
# Rows with outliers among them
# -----------------------------
# 400 rows lie along a curve, and 60 more stand together where there should be none.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import roc_auc_score

from skrepr import AutoencoderTransformer

rng = np.random.default_rng(0)
x = rng.normal(0, 1, 400)
normal = np.column_stack([x, np.sin(1.5 * x)]) + rng.normal(0, 0.12, (400, 2))
outliers = rng.normal((3.6, -3), 0.25, (60, 2))
X = np.concatenate([normal, outliers])
is_outlier = np.arange(len(X)) >= len(normal)

# %%
# ``trim`` is the share of the rows to leave out of the fit: those farthest from the
# medians of the columns. They are scored all the same. It need not be the true share,
# which nobody knows; 0.2 is a good value where there is no better guess.

models = {
    trim: AutoencoderTransformer(n_components=2, trim=trim, random_state=0).fit(X)
    for trim in (0.0, 0.2)
}

# %%
# Look
# ----
# Colours show the score of every point of the plane, and the line is around the 80 % of
# the rows with the highest scores.

grid = np.meshgrid(np.linspace(-4, 5, 160), np.linspace(-4.2, 3, 130))
plane = np.column_stack([axis.ravel() for axis in grid])
figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained", sharey=True)
for axis, (trim, model) in zip(axes, models.items(), strict=True):
    scores = model.score_samples(X)
    values = -model.score_samples(plane).reshape(grid[0].shape)
    picture = axis.pcolormesh(
        *grid, values, cmap="Blues", norm="log", vmin=0.1, vmax=1e3
    )
    axis.contour(*grid, values, [np.quantile(-scores, 0.8)], colors="black")
    axis.scatter(*normal.T, s=8, color="black", label="normal rows")
    axis.scatter(*outliers.T, s=22, color="tab:orange", marker="^", label="outliers")
    area = roc_auc_score(is_outlier, -scores)
    axis.set(title=f"trim={trim}, ROC-AUC {area:.2f}", xlabel="first column")
axes[0].set_ylabel("second column")
axes[0].legend(loc="lower left")
figure.colorbar(picture, label="strangeness (minus the score)", extend="both")
plt.show()

# %%
# The ten strangest rows are the place to start from, in a table where nobody knows.

for trim, model in models.items():
    strangest = model.score_samples(X).argsort()[:10]
    print(f"trim={trim}: {is_outlier[strangest].sum()} of the ten are outliers")
