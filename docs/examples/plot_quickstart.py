"""
Quickstart
==========

The transformers and the outlier detector on data sets that ship with scikit-learn: a
tuned pipeline, anomaly scores that explain themselves, and new rows.
"""

# %%
# A tuned pipeline
# ----------------
# The autoencoder stands where PCA stands in a pipeline. The grid search reaches the
# parameters of its parts, also where a part is given by its name: here the scale of the
# noise that the autoencoder learns to remove.

import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skrepr import AutoencoderTransformer, OutlierDetector, VAETransformer

start = time.perf_counter()
pictures = Path("quickstart_pictures")
pictures.mkdir(exist_ok=True)

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=0.5, stratify=y, random_state=0
)
candidates = {
    "PCA": (PCA(random_state=0), {"code__n_components": [4, 8, 16]}),
    "AutoencoderTransformer": (
        AutoencoderTransformer(random_state=0),
        {"code__n_components": [8, 16], "code__augmentation__scale": [0.1, 0.5]},
    ),
}
print("Breast cancer, logistic regression on the codes, tuned by GridSearchCV")
print(f"{'':24}{'CV accuracy':>12}{'test':>7}  best parameters")
for name, (transformer, grid) in candidates.items():
    pipeline = Pipeline(
        [
            ("scale", StandardScaler()),
            ("code", transformer),
            ("scale_code", StandardScaler()),
            ("classify", LogisticRegression()),
        ]
    )
    search = GridSearchCV(pipeline, grid, n_jobs=2).fit(X_train, y_train)
    best = ", ".join(
        f"{key.removeprefix('code__')}={value}"
        for key, value in search.best_params_.items()
    )
    accuracy = search.score(X_test, y_test)
    print(f"{name:24}{search.best_score_:12.3f}{accuracy:7.3f}  {best}")

# %%
# Anomaly scores
# --------------
# Each digit in turn is what is normal: the models are fitted on half of its images and
# score the other half together with all the images of the other digits.

digits = load_digits()
images, labels = digits.data, digits.target


def split_digit(digit):
    """Return training images, test images, and whether a test image is anomalous."""
    normal = np.random.default_rng(0).permutation(np.flatnonzero(labels == digit))
    half = len(normal) // 2
    test = np.concatenate([normal[half:], np.flatnonzero(labels != digit)])
    return images[normal[:half]], images[test], labels[test] != digit


def neighbour_distance(train, test):
    """Return the distance to the fifth nearest training image."""
    return NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0][:, -1]


scorers = {
    "5-nearest-neighbour distance": neighbour_distance,
    "IsolationForest": lambda train, test: (
        -IsolationForest(random_state=0).fit(train).score_samples(test)
    ),
    "AutoencoderTransformer": lambda train, test: (
        -AutoencoderTransformer(random_state=0).fit(train).score_samples(test)
    ),
    "VAETransformer": lambda train, test: (
        -VAETransformer(random_state=0).fit(train).score_samples(test)
    ),
}
areas = {name: [] for name in scorers}
for digit in range(10):
    train, test, anomalous = split_digit(digit)
    for name, scorer in scorers.items():
        areas[name].append(roc_auc_score(anomalous, scorer(train, test)))

print("\nDigits, one digit normal, ROC-AUC over the ten digits")
print(f"{'':30}{'mean':>6}{'worst':>8}")
for name, values in areas.items():
    print(f"{name:30}{np.mean(values):6.3f}{np.min(values):8.3f}")

# %%
# A detector adds the threshold; `reconstruction_error` tells which pixels made an image
# strange.

train, test, anomalous = split_digit(0)
detector = OutlierDetector(AutoencoderTransformer(random_state=0)).fit(train)
flagged = detector.predict(test) == -1
print(
    f"\nZeros normal: {flagged[~anomalous].mean():.1%} of the new zeros and "
    f"{flagged[anomalous].mean():.1%} of the other digits are flagged"
)

strangest = np.argsort(detector.score_samples(test))[:6]
errors = detector.estimator_.reconstruction_error(test[strangest])
figure, axes = plt.subplots(2, 6, figsize=(8, 3), layout="constrained")
for column, (row, error) in enumerate(zip(strangest, errors, strict=True)):
    axes[0, column].imshow(test[row].reshape(8, 8), cmap="gray_r")
    axes[1, column].imshow(np.sqrt(error).reshape(8, 8), cmap="Reds")
axes[0, 0].set_ylabel("image")
axes[1, 0].set_ylabel("error of\neach pixel")
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
figure.suptitle("The strangest images when zeros are normal")
figure.savefig(pictures / "strange_digits.png", dpi=120)

# %%
# New rows
# --------
# The variational autoencoder draws codes like those of the training rows, and rows
# given the codes. Pixels between 0 and 1 suit the Bernoulli likelihood, whose samples
# are black or white; the means of codes from the prior, by `inverse_transform`, are in
# between.

vae = VAETransformer(
    n_components=8, likelihood="bernoulli", max_iter=300, random_state=0
)
vae.fit(images / 16)
sampled = vae.sample(10, random_state=0)
means = vae.inverse_transform(np.random.default_rng(0).normal(size=(10, 8)))
figure, axes = plt.subplots(2, 10, figsize=(8, 2), layout="constrained")
for axis, image in zip(axes.flat, np.concatenate([sampled, means]), strict=True):
    axis.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel("samples")
axes[1, 0].set_ylabel("means")
figure.suptitle("New digits")
figure.savefig(pictures / "new_digits.png", dpi=120)

print(f"\nPictures in {pictures}/, {time.perf_counter() - start:.0f} seconds in all")
