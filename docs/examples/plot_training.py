"""
What happened in the training?
==============================

*Has my model been trained long enough, or too long, or not at all?* ``history_`` tells:
it has the loss of every epoch, an epoch being one pass over the rows, and the terms
that the loss is made of.
"""

# %%
# Three trainings
# ---------------
# With ``early_stopping=True`` a tenth of the rows is held out. The training stops when
# their loss has not improved for ``n_iter_no_change`` epochs, and the weights of the
# best epoch are taken. The third model has a learning rate that is far too high.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer

from skrepr import AutoencoderTransformer, VAETransformer

X = load_breast_cancer().data
options = {"early_stopping": True, "n_iter_no_change": 60, "random_state": 0}
models = {
    "autoencoder": AutoencoderTransformer(max_iter=600, **options),
    "VAE": VAETransformer(max_iter=400, **options),
    "autoencoder, learning_rate=0.3": AutoencoderTransformer(
        max_iter=100, learning_rate=0.3, random_state=0
    ),
}
for name, model in models.items():
    model.fit(X)
    print(f"{model.n_iter_} epochs, {', '.join(model.history_)}  ({name})")

# %%
# The loss
# --------
# What falls in training but no longer for rows that are held out is learned by heart.
# The autoencoder's loss is the squared error in variances of the columns, so that 1 is
# no better than to guess the mean: that is all that the third model has learned, and
# what to look for when codes are good for nothing. A smaller ``learning_rate`` mends
# it.

figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
for axis, (name, model) in zip(axes, models.items(), strict=True):
    history = model.history_
    axis.plot(history["loss"], color="tab:blue", label="training rows")
    if "validation_loss" in history:
        held_out = history["validation_loss"]
        best = int(np.argmin(held_out))
        axis.plot(held_out, color="tab:orange", ls="--", label="rows held out")
        axis.plot(best, held_out[best], "o", color="black", label="best epoch")
    axis.set(title=name, xlabel="epoch")
    if name != "VAE":
        axis.set(yscale="log", ylim=(0.05, 3))
        axis.axhline(1, color="0.6", ls=":", label="guessing the mean")
    axis.legend()
axes[0].set_ylabel("loss")
plt.show()

# %%
# The terms of the loss
# ---------------------
# The loss of the VAE, minus the evidence lower bound, has two terms: how badly a row is
# reconstructed, and how many nats its code tells of it, the Kullback-Leibler
# divergence. The latter gets its full weight in the first fifth of the epochs. A
# divergence that goes to 0 would mean that the code is not used: see
# :ref:`posterior_collapse`.

history = models["VAE"].history_
figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
axis.plot(history["loss"], color="black", label="loss")
axis.plot(history["reconstruction"], color="tab:blue", ls="--", label="reconstruction")
axis.plot(history["kl"], color="tab:orange", ls="-.", label="divergence, as weighted")
axis.axvspan(0, 0.2 * 400, color="0.92", label="the weight of the divergence rises")
axis.set(xlabel="epoch", ylabel="nats a row, in standardised units", xlim=(0, None))
axis.legend()
plt.show()

used = models["VAE"].active_units_
print(f"{used.sum()} of {used.size} numbers of the code depend on the row")
