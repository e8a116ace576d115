import joblib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skrepr import (
    AutoencoderTransformer,
    ContrastiveTransformer,
    OutlierDetector,
    VAETransformer,
)
from skrepr.augmentations import GaussianNoise
from skrepr.backbones import MLP
from skrepr.penalties import L1

BACKENDS = ["loky", "threading"]  # processes, which share one pool, and threads

CHANGES = {
    AutoencoderTransformer: {
        "backbone__hidden_layer_sizes": (8,),
        "augmentation__scale": 1.0,
        "penalty": L1(weight=0.1),
    },
    VAETransformer: {
        "backbone__hidden_layer_sizes": (8,),
        "backbone__dropout": 0.5,
        "likelihood__scale": 0.5,
        "beta": 0.5,
    },
    ContrastiveTransformer: {
        "backbone__hidden_layer_sizes": (8,),
        "objective__temperature": 0.5,
        "augmentation__rate": 0.2,
    },
}


@pytest.fixture
def table():
    """Labelled rows: a DataFrame of 90 rows and six columns, and two classes."""
    X, y = make_classification(90, 6, n_informative=4, random_state=0)
    return pd.DataFrame(X, columns=list("abcdef"), index=np.arange(90) + 1000), y


def classifier(transformer):
    return Pipeline(
        [
            ("scale", StandardScaler()),
            ("learn", transformer),
            ("classify", LogisticRegression()),
        ]
    )


def test_grid_search_over_parameters_of_parts_equals_the_serial_one(transformer, table):
    """The numbers are the same to the last bit, with one thread per process."""
    changes = CHANGES[type(transformer)]
    grid = [{}, *({f"learn__{name}": [value]} for name, value in changes.items())]
    pipeline = classifier(transformer)
    search = GridSearchCV(
        pipeline, grid, cv=2, scoring="neg_log_loss", error_score="raise"
    )
    serial = clone(search).fit(*table)
    splits = ["split0_test_score", "split1_test_score"]
    for split in splits:
        assert len(np.unique(serial.cv_results_[split])) == len(grid)
    for backend in BACKENDS:
        with joblib.parallel_backend(backend, n_jobs=2):
            parallel = clone(search).set_params(n_jobs=2).fit(*table)
        for split in splits:
            assert_array_equal(parallel.cv_results_[split], serial.cv_results_[split])
        assert_array_equal(
            parallel.predict_proba(table[0]), serial.predict_proba(table[0])
        )
    assert transformer.backbone == "mlp"


def test_fits_in_parallel_equal_fits_in_series(transformer, X):
    estimators = [
        clone(transformer).set_params(
            random_state=seed, backbone=MLP((8,), dropout=dropout)
        )
        for seed, dropout in enumerate([0.0, 0.5, 0.0, 0.5])
    ]
    expected = [clone(estimator).fit(X).transform(X) for estimator in estimators]
    for backend in BACKENDS:
        fits = joblib.Parallel(n_jobs=2, backend=backend)(
            joblib.delayed(clone(estimator).fit)(X) for estimator in estimators
        )
        for fitted, Z in zip(fits, expected, strict=True):
            assert_array_equal(fitted.transform(X), Z)


def test_a_fitted_estimator_may_be_used_by_many_workers(fitted, X):
    expected = fitted.transform(X)
    for backend in BACKENDS:
        parts = joblib.Parallel(n_jobs=2, backend=backend)(
            joblib.delayed(fitted.transform)(X) for _ in range(8)
        )
        for Z in parts:
            assert_array_equal(Z, expected)


def test_grid_search_needs_no_scoring(transformer, X):
    search = GridSearchCV(transformer, {"backbone__activation": ["tanh"]}, cv=2)
    search.fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.transform(X).shape == (60, 3)


def test_detector_in_a_search_over_parameters_of_parts(table):
    X, y = table
    vae = VAETransformer(n_components=2, max_iter=2, random_state=0)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), OutlierDetector(vae, contamination=0.1)),
        {"outlierdetector__estimator__backbone__hidden_layer_sizes": [(4,), (8,)]},
        scoring="roc_auc",
        cv=2,
        error_score="raise",
    )
    search.fit(X, np.where(y, 1, -1))
    assert len(np.unique(search.cv_results_["mean_test_score"])) == 2


def test_clone_copies_parts_and_forgets_the_fit(X):
    part = MLP((8,), dropout=0.5)
    ae = AutoencoderTransformer(
        3, backbone=part, augmentation=GaussianNoise(0.5), max_iter=2, random_state=0
    ).fit(X)
    copy = clone(ae)
    assert repr(copy) == repr(ae)
    assert copy.backbone is not part
    assert not hasattr(copy, "module_")
    assert_array_equal(copy.fit(X).transform(X), ae.transform(X))
    copy.set_params(backbone__dropout=0.0)
    assert part.dropout == 0.5


def test_a_part_may_be_shared_and_is_never_changed(transformer, X):
    part = MLP(hidden_layer_sizes=[8, 4])
    before = vars(part).copy()
    first = clone(transformer).set_params(backbone=part).fit(X)
    second = clone(transformer).set_params(backbone=part, random_state=1).fit(X)
    assert vars(part) == before == {**vars(MLP()), "hidden_layer_sizes": [8, 4]}
    assert not np.allclose(first.transform(X), second.transform(X))
    again = clone(transformer).set_params(backbone=part).fit_transform(X)
    assert_array_equal(first.transform(X), again)


def test_labels_in_a_pipeline_make_no_difference(transformer, X):
    y = np.arange(60).astype(str)
    expected = clone(transformer).fit(X).transform(X)
    assert_array_equal(transformer.fit(X, y).transform(X), expected)


def test_feature_union_joins_the_codes(table):
    X, _ = table
    quick = {"n_components": 2, "max_iter": 2, "random_state": 0}
    kinds = [AutoencoderTransformer, VAETransformer, ContrastiveTransformer]
    union = FeatureUnion([(k.__name__, k(**quick)) for k in kinds], n_jobs=2)
    expected = np.hstack([k(**quick).fit_transform(X) for k in kinds])
    for backend in BACKENDS:
        with joblib.parallel_backend(backend, n_jobs=2):
            Z = union.fit_transform(X)
        assert_array_equal(Z, expected)
        assert_array_equal(union.transform(X), Z)
    assert len(union.get_feature_names_out()) == 6


def test_column_transformer_gives_each_its_columns(transformer, table):
    X, _ = table
    other = VAETransformer(n_components=2, max_iter=2, random_state=1)
    columns = make_column_transformer(
        (transformer, ["a", "c", "d"]),
        (other, ["b", "e"]),
        remainder="passthrough",
        n_jobs=2,
    ).set_output(transform="pandas")
    expected = np.hstack(
        [
            clone(transformer).fit_transform(X[["a", "c", "d"]]),
            clone(other).fit_transform(X[["b", "e"]]),
            X[["f"]],
        ]
    )
    for backend in BACKENDS:
        with joblib.parallel_backend(backend, n_jobs=2):
            Z = columns.fit_transform(X)
        assert_array_equal(Z.index, X.index)
        assert_array_equal(Z, expected)


def test_set_output_makes_a_pipeline_give_data_frames(transformer, table):
    X, _ = table
    pipeline = make_pipeline(StandardScaler(), transformer)
    Z = pipeline.fit_transform(X)
    frame = pipeline.set_output(transform="pandas").fit_transform(X)
    assert isinstance(frame, pd.DataFrame)
    assert_array_equal(frame.index, X.index)
    prefix = type(transformer).__name__.lower()
    assert list(frame.columns) == [f"{prefix}{i}" for i in range(3)]
    assert list(pipeline.get_feature_names_out()) == list(frame.columns)
    np.testing.assert_allclose(frame, Z, rtol=1e-5, atol=1e-7)


def test_inverse_transform_goes_back_through_a_pipeline(table):
    X, _ = table
    ae = AutoencoderTransformer(
        6, backbone=MLP(()), augmentation=None, learning_rate=0.03, random_state=0
    )
    pipeline = make_pipeline(StandardScaler(), ae)
    back = pipeline.fit(1e3 * X).inverse_transform(pipeline.transform(1e3 * X))
    assert np.abs(back / 1e3 - X.to_numpy()).max() < 0.1
