"""
Two numbers for a picture: codes beside principal components
============================================================

*What do codes keep that principal components lose?* Two numbers have to stand for an
image of 64 pixels, once those of PCA and once those of a variational autoencoder.
Neither is told which of the ten digits an image shows.
"""

# %%
# Codes
# -----
# :class:`~skrepr.VAETransformer` stands where :class:`~sklearn.decomposition.PCA`
# stands. It learns one network that makes two numbers of an image, and another one that
# draws the image again from these. ``standardize=False`` leaves the pixels on the one
# scale that they share; it expects values of the order of 1.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from skrepr import VAETransformer
from skrepr.metrics import knn_accuracy

X, digit = load_digits(return_X_y=True)
X /= 16  # pixels from 0, white, to 1, black
transformers = {
    "PCA": PCA(n_components=2),
    "VAETransformer": VAETransformer(
        n_components=2, standardize=False, max_iter=150, random_state=0
    ),
}
codes = {name: model.fit_transform(X) for name, model in transformers.items()}

# %%
# Every image is drawn where its two numbers are, as the digit that it shows.

colours = plt.colormaps["turbo"](np.linspace(0.05, 0.95, 10))
figure, axes = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
for axis, (name, code) in zip(axes, codes.items(), strict=True):
    for kind in range(10):
        axis.scatter(
            *code[digit == kind].T,
            s=30,
            marker=f"${kind}$",
            color=colours[kind],
            linewidths=0.3,
        )
    axis.set(title=name, xlabel="first number", ylabel="second number")
plt.show()

# %%
# How much of the digit is left in two numbers? The five nearest neighbours of an image,
# by its numbers, vote on what it shows.

for name, code in codes.items():
    print(f"{knn_accuracy(code, digit):.0%} recognised from the two numbers of {name}")

# %%
# Back to pixels
# --------------
# ``inverse_transform`` draws an image from two numbers. PCA adds multiples of two fixed
# pictures to the mean image; what the network draws may be another thing in every
# corner of the plane.

shown = [np.flatnonzero(digit == kind)[0] for kind in range(10)]
drawn = {
    name: model.inverse_transform(codes[name]) for name, model in transformers.items()
}
lines = {"image": X} | drawn
figure, axes = plt.subplots(3, 10, figsize=(10, 3.4), layout="constrained")
for line, (name, images) in zip(axes, lines.items(), strict=True):
    line[0].set_ylabel(name.removesuffix("Transformer"))
    for axis, image in zip(line, images[shown], strict=True):
        axis.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
plt.show()

for name, images in drawn.items():
    lost = np.mean((images - X) ** 2) / X.var(axis=0).mean()
    print(f"{lost:.0%} of the pixels' variance is lost by {name}")

# %%
# Drawing the whole plane shows what the network has understood: which digits there are,
# where, and what it takes for the way from one to another.

steps = np.linspace(-2.2, 2.2, 13)
plane = np.stack(np.meshgrid(steps, steps[::-1]), axis=-1).reshape(-1, 2)
images = transformers["VAETransformer"].inverse_transform(plane).reshape(13, 13, 8, 8)
framed = np.pad(images, [(0, 0), (0, 0), (1, 1), (1, 1)])
mosaic = framed.swapaxes(1, 2).reshape(130, 130)
figure, axis = plt.subplots(figsize=(6, 6), layout="constrained")
axis.imshow(mosaic, cmap="gray_r", vmin=0, vmax=1, extent=(-2.4, 2.4, -2.4, 2.4))
axis.set(xlabel="first number", ylabel="second number")
axis.set_title("What the network draws at each code")
plt.show()
