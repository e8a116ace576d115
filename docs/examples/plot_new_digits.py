"""
New rows on demand: digits that nobody has written
==================================================

*What do generated rows look like?* With images of digits one can see for oneself. A row
of the table is 64 pixels and the digit that they show, and a variational autoencoder
makes rows of the kind one asks for.
"""

# %%
# A model of the table
# --------------------
# The digit is a column like any other: a string, and thereby a category. Pixels share
# one scale, so they are not standardised.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from skrepr import VAETransformer

images, digit = load_digits(return_X_y=True, as_frame=True)
images /= 16  # pixels from 0, white, to 1, black
table = images.assign(digit=digit.astype(str))
vae = VAETransformer(standardize=False, max_iter=100, random_state=0).fit(table)

# %%
# Rows of a kind
# --------------
# ``given`` is a condition that all generated rows satisfy. Here it is a digit; it may
# as well be a range of numbers, or several of these.

rows = [vae.sample(15, given={"digit": str(k)}, random_state=0) for k in range(10)]


def mosaic(images):
    """Join images of shape (lines, columns, 64) to one, with a frame around each."""
    framed = np.pad(
        images.reshape(*images.shape[:2], 8, 8), [(0, 0), (0, 0), (1, 1), (1, 1)]
    )
    return framed.swapaxes(1, 2).reshape(10 * images.shape[0], 10 * images.shape[1])


generated = np.stack([some[images.columns].to_numpy() for some in rows])
figure, axis = plt.subplots(figsize=(8, 5.6), layout="constrained")
axis.imshow(mosaic(generated), cmap="gray_r", vmin=0, vmax=1)
axis.set_yticks(10 * np.arange(10) + 4.5, range(10))
axis.set(xticks=[], ylabel="the digit asked for", title="Generated rows")
plt.show()

# %%
# Are they copies?
# ----------------
# Below the first generated image of every digit is the training image that is nearest
# to it. A model that had learned the images by heart would show the same image twice.

pixels = images.to_numpy()
neighbours = NearestNeighbors(n_neighbors=1).fit(pixels)
first = generated[:, 0]
distances, nearest = neighbours.kneighbors(first)
figure, axis = plt.subplots(figsize=(8, 2), layout="constrained")
pairs = np.stack([first, pixels[nearest[:, 0]]])
axis.imshow(mosaic(pairs), cmap="gray_r", vmin=0, vmax=1)
axis.set(xticks=[])
axis.set_yticks([4.5, 14.5], ["generated", "nearest\ntraining image"])
plt.show()

apart = neighbours.kneighbors()[0]
print(f"A generated image is {distances.mean():.2f} from the nearest training image,")
print(f"a training image {apart.mean():.2f} from the nearest other one, on average.")

# %%
# The way between two rows
# ------------------------
# ``interpolate`` goes straight from the code of one row to that of another one, and
# decodes what lies between.

way = vae.interpolate(table.iloc[[0, 1, 2]], table.iloc[[6, 4, 3]], n_steps=15)
ways = way[images.columns].to_numpy().reshape(3, 15, 64)
figure, axis = plt.subplots(figsize=(8, 1.9), layout="constrained")
axis.imshow(mosaic(ways), cmap="gray_r", vmin=0, vmax=1)
axis.set_yticks([4.5, 14.5, 24.5], ["0 to 6", "1 to 4", "2 to 3"])
axis.set(xticks=[])
plt.show()
