"""Networks and transformers of the contenders, in a file that workers can import."""

import warnings
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from torch import nn

HIDDEN, BATCH, EPOCHS = 64, 128, 30  # of the transformers


def network(sizes):
    layers = []
    for n_in, n_out in pairwise(sizes[:-1]):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:]))


def autoencoder(d, h, k):
    return nn.Sequential(network([d, h, k]), network([k, h, d]))


def skorch_regressor(make, batch, n_epochs, learning_rate):
    from skorch import NeuralNetRegressor

    return NeuralNetRegressor(
        make,
        optimizer=torch.optim.Adam,
        lr=learning_rate,
        batch_size=batch,
        max_epochs=n_epochs,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks="disable",
        verbose=0,
    )


class PeerAutoencoder(TransformerMixin, BaseEstimator):
    """What the transformers share: the parameters that a search may set."""

    def __init__(self, n_components=8, learning_rate=1e-3):
        self.n_components = n_components
        self.learning_rate = learning_rate


class SkorchAutoencoder(PeerAutoencoder):
    def fit(self, X, y=None):
        X = np.asarray(X, np.float32)
        make = partial(autoencoder, X.shape[1], HIDDEN, self.n_components)
        self.net_ = skorch_regressor(make, BATCH, EPOCHS, self.learning_rate).fit(X, X)
        return self

    def transform(self, X):
        with torch.inference_mode():
            x = torch.as_tensor(np.asarray(X, np.float32))
            return self.net_.module_[0](x).numpy()


class MLPRegressorAutoencoder(PeerAutoencoder):
    """Codes are what the second hidden layer gives, so none is negative."""

    def fit(self, X, y=None):
        self.net_ = MLPRegressor(
            hidden_layer_sizes=(HIDDEN, self.n_components, HIDDEN),
            alpha=0.0,
            batch_size=BATCH,
            learning_rate_init=self.learning_rate,
            max_iter=EPOCHS,
            n_iter_no_change=EPOCHS,  # it never stops early
            random_state=0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.net_.fit(X, X)
        return self

    def transform(self, X):
        for layer in range(2):
            X = X @ self.net_.coefs_[layer] + self.net_.intercepts_[layer]
            X = np.maximum(X, 0)
        return X
