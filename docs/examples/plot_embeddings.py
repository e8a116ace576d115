"""
Embeddings that ignore what should not matter
=============================================

*How does an embedding learn what matters?* :class:`~skrepr.ContrastiveTransformer`
makes two views of every row and draws them together. Whoever knows what should not
matter says so by the views; whoever has labels says it by them. Here digits should be
the same digits wherever in the picture they stand.
"""

# %%
# Views that know something
# -------------------------
# One half of the images trains. Those of the other half are moved by up to one pixel,
# to see what becomes of the embeddings then.
#
# A view of one's own is a function of a batch: it gets a tensor of rows and a generator
# of random numbers, and returns the changed rows.

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import FunctionTransformer, normalize

from skrepr import ContrastiveTransformer


def move(x, generator):
    """Move every image by -1, 0 or 1 pixels, down and to the right."""
    framed = torch.nn.functional.pad(x.reshape(-1, 8, 8), (1, 1, 1, 1))
    windows = framed.unfold(1, 8, 1).unfold(2, 8, 1).reshape(-1, 9, 64)
    chosen = torch.randint(9, (len(x),), generator=generator)
    return windows[torch.arange(len(x)), chosen]


X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X / 16, y, test_size=0.5, random_state=0
)
X_moved = move(torch.from_numpy(X_test), torch.Generator().manual_seed(0)).numpy()

# %%
# Three embeddings
# ----------------
# The pixels themselves, codes that have learned from moved views without any label, and
# codes for which images of the same digit belong together as well.

embeddings = {
    "pixels": FunctionTransformer(),
    "moved views": ContrastiveTransformer(
        augmentation=move, standardize=False, max_iter=60, random_state=0
    ),
    "moved views and labels": ContrastiveTransformer(
        augmentation=move,
        positives="labels",
        standardize=False,
        max_iter=60,
        random_state=0,
    ),
}
tables = {"train": X_train, "test": X_test, "moved": X_moved}
codes = {}
for name, model in embeddings.items():
    model.fit(X_train, y_train)
    codes[name] = {
        key: normalize(model.transform(table))  # what counts in the codes are angles
        for key, table in tables.items()
    }

# %%
# The moved images, of which no embedding has seen a single one, by the two first
# principal components of their embedding:

colours = plt.colormaps["turbo"](np.linspace(0.05, 0.95, 10))
figure, axes = plt.subplots(1, 3, figsize=(12, 4.3), layout="constrained")
for axis, (name, code) in zip(axes, codes.items(), strict=True):
    plane = PCA(n_components=2).fit_transform(code["moved"])
    for kind in range(10):
        axis.scatter(
            *plane[y_test == kind].T,
            s=26,
            marker=f"${kind}$",
            color=colours[kind],
            linewidths=0.3,
        )
    axis.set(title=name, xticks=[], yticks=[])
plt.show()

# %%
# Are they any good?
# ------------------
# Five training images that are nearest in the embedding vote on every test image. In
# front of images that stand where the training images stand, pixels are hard to beat;
# in front of moved ones they know little.

print(f"{'recognised by neighbours':26}{'as they are':>12}{'moved':>8}")
for name, code in codes.items():
    vote = KNeighborsClassifier().fit(code["train"], y_train)
    test, moved = (vote.score(code[key], y_test) for key in ("test", "moved"))
    print(f"{name:26}{test:12.0%}{moved:8.0%}")
