"""
Missing cells, and what may have stood there
============================================

*How are holes filled?* From the other cells of the row: the model knows what goes with
them. A quarter of every image is hidden here, and as the images are known, so is how
good the guesses are.
"""

# %%
# Images with a hole
# ------------------
# 1 500 complete images train the models. In the others a square of 16 of the 64 pixels
# is missing, in every image another one.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.impute import KNNImputer, SimpleImputer

from skrepr import AutoencoderTransformer

X = load_digits().data / 16  # pixels from 0, white, to 1, black
train, whole = X[:1500], X[1500:]
rng = np.random.default_rng(0)
hidden = np.zeros((len(whole), 8, 8), dtype=bool)
for mask in hidden:
    top, left = rng.integers(0, 5, size=2)
    mask[top : top + 4, left : left + 4] = True
hidden = hidden.reshape(len(whole), 64)
holes = np.where(hidden, np.nan, whole)

# %%
# Three ways to fill it
# ---------------------
# ``impute`` of the autoencoder changes nothing but the holes. It takes training rows
# with holes as well; then it learns to do without the cells that are missing there.

autoencoder = AutoencoderTransformer(standardize=False, random_state=0).fit(train)
filled = {
    "mean of the pixel": SimpleImputer().fit(train).transform(holes),
    "five nearest images": KNNImputer().fit(train).transform(holes),
    "autoencoder": autoencoder.impute(holes),
}

# %%
# The squares with a frame are what was filled in.

lines = {"the image": whole, "what is left": holes} | filled
figure, axes = plt.subplots(len(lines), 10, figsize=(9, 5), layout="constrained")
for line, (name, images) in zip(axes, lines.items(), strict=True):
    line[0].set_ylabel(name.replace(" ", "\n", 1), rotation=0, ha="right", va="center")
    for axis, image, mask in zip(line, images, hidden, strict=False):
        axis.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        top, left = np.argwhere(mask.reshape(8, 8))[0]
        axis.add_patch(
            plt.Rectangle(
                (left - 0.5, top - 0.5), 4, 4, fill=False, ec="tab:orange", lw=1.5
            )
        )
        axis.set(xticks=[], yticks=[])
plt.show()

for name, images in filled.items():
    error = np.sqrt(np.mean((images - whole)[hidden] ** 2))
    print(f"root mean squared error {error:.3f}  {name}")

# %%
# Filled cells are guesses, and vary less than values: :ref:`trust_imputation` says when
# they are good enough. To know how strange a row is, or to get its code, nothing has to
# be filled in: ``score_samples`` and ``transform`` take rows with holes.
