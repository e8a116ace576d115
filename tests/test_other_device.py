"""Estimators train and compute on another device than the CPU, as far as that shows
without a GPU."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from other_device import other_device
from sklearn.base import clone

from skrepr import (
    AutoencoderTransformer,
    ContrastiveTransformer,
    FineTunedClassifier,
    FineTunedRegressor,
    VAETransformer,
)
from skrepr.augmentations import Compose, FeatureCorruption, FeatureMasking
from skrepr.auxiliaries import SelfPrediction
from skrepr.backbones import MLP
from skrepr.objectives import LiftedStructured, MoCo, NTXent, Triplet

QUICK = {"max_iter": 1, "batch_size": 32, "random_state": 0}
OF_COLUMNS = {"count": "negative_binomial", "size": "mixture", "weight": "student_t"}


def autoencoder(**params):
    return AutoencoderTransformer(3, **QUICK | params)


def vae(**params):
    return VAETransformer(3, **QUICK | params)


def contrastive(objective="nt_xent", **params):
    return ContrastiveTransformer(3, objective=objective, **QUICK | params)


ESTIMATORS = [
    autoencoder(backbone=MLP((8,), norm="batch", dropout=0.2)),
    autoencoder(likelihood=OF_COLUMNS, augmentation="mixup", error_model="diagonal"),
    autoencoder(penalty="contractive", augmentation="feature_masking"),
    autoencoder(penalty="top_k", early_stopping=True, error_model="mean_squared"),
    vae(),
    vae(likelihood=OF_COLUMNS, early_stopping=True, free_bits=0.1),
    contrastive(NTXent(learn_temperature=True), auxiliary=SelfPrediction(1.0, 1.0)),
    contrastive(MoCo(queue_size=50), early_stopping=True),
    contrastive("byol"),
    contrastive("barlow_twins", augmentation=Compose("mixup", FeatureMasking())),
    contrastive("vicreg"),
    contrastive("n_pair"),
    *(
        contrastive(objective, positives="labels")
        for objective in (
            "nt_xent",
            "sup_con",
            "contrastive",
            "triplet",
            Triplet(mining="all"),
            Triplet(mining="hard"),
            "lifted_structured",
            LiftedStructured(form="hard"),
        )
    ),
    FineTunedClassifier(
        autoencoder(), augmentation=FeatureCorruption(donors="class"), **QUICK
    ),
    FineTunedRegressor(vae(), early_stopping=True, **QUICK),
]


def on(device, estimator):
    names = (name for name in estimator.get_params() if name.endswith("device"))
    return clone(estimator).set_params(**dict.fromkeys(names, device))


def outputs(estimator, frame):
    names = "transform score_samples log_likelihood predict_proba reconstruction_error"
    verbs = [getattr(estimator, name, None) for name in names.split()]
    values = [verb(frame) for verb in verbs if verb is not None]
    if hasattr(estimator, "impute"):
        values.append(estimator.impute(frame)[["size", "weight"]])
        values.append(estimator.inverse_transform(values[0])[["size", "weight"]])
    if isinstance(estimator, FineTunedRegressor):
        values.append(estimator.predict(frame))
    return values


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_an_estimator_on_another_device(estimator, mixed, monkeypatch):
    y = np.arange(90) % 2
    on_cpu = on("cpu", estimator).fit(mixed, y)
    expected = outputs(on_cpu, mixed)
    with other_device(monkeypatch):
        fitted = on("meta", estimator).fit(mixed, y)
        found = outputs(fitted, mixed)
    assert fitted.device_ == "meta"
    for tensor in fitted.module_.state_dict().values():
        assert tensor.device.type == "cpu"
    assert_allclose(fitted.history_["loss"], on_cpu.history_["loss"], rtol=1e-2)
    if not isinstance(estimator, ContrastiveTransformer):  # rounding chooses its pairs
        for values, others in zip(found, expected, strict=True):
            assert_allclose(values, others, rtol=1e-2, atol=5e-3)


def test_what_the_other_device_refuses(monkeypatch):
    with other_device(monkeypatch):
        x = torch.ones(3, device="meta")
        assert (2 * x + torch.tensor(1.0)).tolist() == [3, 3, 3]
        with pytest.raises(RuntimeError, match="two devices"):
            x + torch.ones(3)
        with pytest.raises(RuntimeError, match="another generator"):
            x.normal_(generator=torch.Generator())
        with pytest.raises(RuntimeError, match="not supported"):
            x.numpy()
