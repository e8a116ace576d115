"""Likelihoods: the distribution of a row given its code.

A likelihood turns the decoder's output into the distribution of every column. The rows
reach it in units of the matrix (standardised columns), and its means go back in those
units; a likelihood that models the user's own units, such as Bernoulli, converts.

The likelihoods that can be chosen are of numbers. Categorical columns have the
probabilities of their levels, whatever is chosen.
"""

from skrepr import _public
from skrepr.likelihoods._base import Likelihood, LikelihoodModule
from skrepr.likelihoods._binary import Bernoulli
from skrepr.likelihoods._counts import NegativeBinomial, Poisson
from skrepr.likelihoods._joint import PerColumn
from skrepr.likelihoods._real import Gaussian, MixtureOfGaussians, StudentT

__all__ = [
    "Bernoulli",
    "Gaussian",
    "Likelihood",
    "LikelihoodModule",
    "MixtureOfGaussians",
    "NegativeBinomial",
    "PerColumn",
    "Poisson",
    "StudentT",
]

_public.hand_on(__name__, globals())
