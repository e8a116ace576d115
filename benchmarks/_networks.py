"""The networks of the contenders, in a file that worker processes can import."""

from itertools import pairwise

from torch import nn


def network(sizes):
    layers = []
    for n_in, n_out in pairwise(sizes[:-1]):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:]))


def autoencoder(d, h, k):
    return nn.Sequential(network([d, h, k]), network([k, h, d]))


class Autoencoder(nn.Module):
    def __init__(self, k=8, h=64, d=20):
        super().__init__()
        self.net = autoencoder(d, h, k)

    def forward(self, x):
        return self.net(x)
