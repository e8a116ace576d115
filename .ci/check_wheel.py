"""Check the installed package where nothing else is: no extra, and no source beside it.

Run as `python -I -W error check_wheel.py`: what is imported is what pip installed, and
a warning is an error.
"""

import inspect
import pickle
import pkgutil
from functools import partial
from importlib.metadata import requires
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import skrepr

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 2)) @ rng.normal(size=(2, 5)) + rng.normal(size=(60, 5))
y = (X[:, 0] > 0).astype(int)
VERBS = {
    "transform": (X,),
    "inverse_transform": (np.zeros((4, 2)),),
    "impute": (X,),
    "sample": (4,),
    "interpolate": (X[:4], X[4:8]),
    "score": (X, y),
    "score_samples": (X,),
    "feature_contributions": (X,),
    "reconstruction_error": (X,),
    "predict": (X,),
    "predict_proba": (X,),
    "decision_function": (X,),
    "p_values": (X,),
}


def check_installed_alone():
    """Check that no extra's library is installed, and that type checkers see types."""
    assert "site-packages" in Path(skrepr.__file__).parts, skrepr.__file__
    assert (files("skrepr") / "py.typed").is_file(), "The wheel lacks py.typed."
    extras = [line for line in requires("skrepr") if "extra ==" in line]
    assert extras
    for library in ("matplotlib", "pandas", "polars", "pyarrow", "pytest"):
        assert any(line.startswith(library) for line in extras), library
        assert find_spec(library) is None, f"{library} is installed."


def check_imports():
    """Import every module but the adapters of libraries that are not there."""
    for module in pkgutil.walk_packages(skrepr.__path__, "skrepr."):
        try:
            __import__(module.name)
        except ModuleNotFoundError as error:
            if module.name != f"skrepr._columns._{error.name}":
                raise


def estimators():
    """Make one of every estimator of the package, for a short fit."""
    short = {"max_iter": 3, "random_state": 0}
    autoencoder = skrepr.AutoencoderTransformer(n_components=2, **short)
    made = [
        autoencoder,
        skrepr.VAETransformer(n_components=2, **short),
        skrepr.ContrastiveTransformer(n_components=2, **short),
        skrepr.FineTunedClassifier(autoencoder, **short),
        skrepr.FineTunedRegressor(autoencoder, **short),
        skrepr.OutlierDetector(autoencoder, calibration=0.5),
    ]
    public = {name for name in skrepr.__all__ if inspect.isclass(getattr(skrepr, name))}
    assert {type(estimator).__name__ for estimator in made} == public
    return made


def check_estimator(estimator):
    """Do with arrays all that an estimator can, and the same after a pickle."""
    estimator.fit(X, y)
    copy = pickle.loads(pickle.dumps(estimator))
    found = [verb for verb in VERBS if hasattr(estimator, verb)]
    for verb in found:
        arguments = VERBS[verb]
        seed = {"random_state": 0} if verb == "sample" else {}
        result = getattr(estimator, verb)(*arguments, **seed)
        assert np.isfinite(result).all(), f"{verb} of {estimator} is not finite."
        np.testing.assert_array_equal(
            getattr(copy, verb)(*arguments, **seed), result, f"{verb} of a pickle"
        )
    assert "transform" in found or "predict" in found
    print(f"{type(estimator).__name__}: fit, pickle, {', '.join(found)}")


def check_says_what_to_install(name, use, *words):
    """Use what lacks its library: the error names what to install."""
    try:
        use()
        message = "no error"
    except ImportError as error:
        message = str(error)
    if not all(word in message for word in words):
        raise AssertionError(f"{name} without its library: {message}")
    print(f"{name}: {message}")


def check_optional_features():
    """Ask for tables, and for plots."""
    autoencoder = skrepr.AutoencoderTransformer(2, max_iter=3, random_state=0).fit(X)
    for library in ("pandas", "polars"):
        autoencoder.set_output(transform=library)
        use = partial(autoencoder.transform, X)
        check_says_what_to_install(f"set_output of {library}", use, library)
    autoencoder.set_output(transform="default")
    displays = inspect.getmembers(skrepr.inspection, inspect.isclass)
    displays = [pair for pair in displays if pair[0].endswith("Display")]
    assert displays
    for name, display in displays:
        use = partial(display.from_estimator, autoencoder, X)
        check_says_what_to_install(name, use, "skrepr[plot]", "matplotlib")


check_installed_alone()
check_imports()
for estimator in estimators():
    check_estimator(estimator)
check_optional_features()
print(f"The wheel of skrepr {skrepr.__version__} works alone")
