"""
Few labels and many rows
========================

*Do rows without a label help to predict?* All the images of digits are there to learn
from, but few of them say which digit it is. An encoder that has seen all images first,
and knows that a digit may stand a little elsewhere, has less to learn from the few.
"""

# %%
# Learn from all rows first
# -------------------------
# The images are moved by up to one pixel at random, so that a pixel says little by
# itself. :class:`~skrepr.ContrastiveTransformer` learns, without a label, to draw an
# image and a moved copy of it together.

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skrepr import ContrastiveTransformer, FineTunedClassifier


def move(x, generator):
    """Move every image by -1, 0 or 1 pixels, down and to the right."""
    framed = torch.nn.functional.pad(x.reshape(-1, 8, 8), (1, 1, 1, 1))
    windows = framed.unfold(1, 8, 1).unfold(2, 8, 1).reshape(-1, 9, 64)
    chosen = torch.randint(9, (len(x),), generator=generator)
    return windows[torch.arange(len(x)), chosen]


X, y = load_digits(return_X_y=True)
X = move(torch.from_numpy(X / 16), torch.Generator().manual_seed(0)).numpy()
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=500, stratify=y, random_state=0
)
encoder = ContrastiveTransformer(
    n_components=64, augmentation=move, standardize=False, max_iter=80, random_state=0
).fit(X_train)

# %%
# Then from the labelled ones
# ---------------------------
# The encoder is frozen, so that every model takes it as it is: a logistic regression
# reads its codes, and :class:`~skrepr.FineTunedClassifier` trains a copy of it together
# with a logistic regression, on moved images again. A random forest and a logistic
# regression of the pixels know nothing but the labelled images.

frozen = FrozenEstimator(encoder)
models = {
    "fine-tuned encoder": FineTunedClassifier(
        frozen, augmentation=move, max_iter=150, random_state=0
    ),
    "logistic regression of the codes": make_pipeline(
        frozen, StandardScaler(), LogisticRegression(max_iter=1000)
    ),
    "random forest of the pixels": RandomForestClassifier(
        n_estimators=50, random_state=0
    ),
    "logistic regression of the pixels": LogisticRegression(max_iter=1000),
}
sizes = [20, 50, 100, 200]
accuracies = {name: [] for name in models}
for size in sizes:
    X_few, _, y_few, _ = train_test_split(
        X_train, y_train, train_size=size, stratify=y_train, random_state=0
    )
    for name, model in models.items():
        accuracies[name].append(model.fit(X_few, y_few).score(X_test, y_test))

# %%
# With one call, and nothing frozen, the same is
# ``FineTunedClassifier(ContrastiveTransformer(...)).fit(X, y)`` with NaN where y is
# missing.
#
# Look
# ----

figure, axis = plt.subplots(figsize=(8, 4.8), layout="constrained")
styles = zip(
    ["tab:blue", "tab:cyan", "tab:orange", "tab:brown"],
    ["o-", "s-", "^--", "v--"],
    strict=True,
)
for (name, values), (colour, marker) in zip(accuracies.items(), styles, strict=True):
    axis.plot(sizes, values, marker, color=colour, lw=2, label=name)
axis.set(xscale="log", xlabel="images with a label", ylabel="accuracy on new images")
axis.set_xticks(sizes, sizes)
axis.minorticks_off()
axis.grid(alpha=0.3)
axis.legend()
plt.show()

for name, values in accuracies.items():
    print(f"{name:34}" + "".join(f"{value:6.0%}" for value in values))
