"""Every verb of every estimator asks for a fit first."""

import inspect

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

import skrepr

# What makes a fit, and what does without one.
NOT_VERBS = ("_", "fit", "get_", "set_")


def required(function):
    """List the parameters without a default value."""
    parameters = inspect.signature(function).parameters.values()
    variadic = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return [
        p.name for p in parameters if p.default is p.empty and p.kind not in variadic
    ]


def make(kind):
    """Make an estimator, around an autoencoder if it needs another one."""
    inner = skrepr.AutoencoderTransformer()
    return kind(**dict.fromkeys(required(kind), inner))


def verbs(kind):
    """List the public methods that need a fitted estimator."""
    return [
        name
        for name, member in inspect.getmembers(kind, callable)
        if not name.startswith(NOT_VERBS)
    ]


VERBS = [
    pytest.param(kind, name, id=f"{kind.__name__}.{name}")
    for kind in map(vars(skrepr).get, skrepr.__all__)
    if inspect.isclass(kind)
    for name in verbs(kind)
]


def test_verbs_are_found():
    found = {param.id for param in VERBS}
    assert {
        "AutoencoderTransformer.interpolate",
        "VAETransformer.elbo",
        "ContrastiveTransformer.transform",
        "FineTunedClassifier.predict_proba",
        "FineTunedRegressor.score",
        "OutlierDetector.feature_contributions",
        "OutlierDetector.p_values",
    } <= found


@pytest.mark.parametrize(("kind", "name"), VERBS)
def test_a_verb_asks_for_a_fit_first(kind, name):
    estimator = make(kind)
    before = vars(estimator).copy()
    verb = getattr(estimator, name)
    rows = np.zeros((4, 3))
    arguments = {p: rows[:, 0] if p == "y" else rows for p in required(verb)}
    with pytest.raises(NotFittedError, match="not fitted"):
        verb(**arguments)
    # Whatever it is given.
    with pytest.raises(NotFittedError):
        verb(**dict.fromkeys(arguments, "nonsense"))
    assert vars(estimator) == before
