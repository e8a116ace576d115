"""What every part obeys: it is a value, reached by its name or through ``__``."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils._param_validation import InvalidParameterError
from torch import nn

from skrepr import AutoencoderTransformer, ContrastiveTransformer, VAETransformer
from skrepr._estimators._base import BaseTorchEstimator
from skrepr.augmentations import (
    Augmentation,
    Compose,
    FeatureCorruption,
    FeatureMasking,
    GaussianNoise,
    Mixup,
)
from skrepr.backbones import MLP, Backbone
from skrepr.error_models import ErrorModel
from skrepr.likelihoods import Bernoulli, Gaussian, Likelihood
from skrepr.objectives import NTXent, Objective
from skrepr.parts import Part
from skrepr.penalties import L1, Penalty

KINDS = sorted(Part.__subclasses__(), key=lambda kind: kind.__name__)
PARTS = [
    MLP(hidden_layer_sizes=(3,), norm="batch"),
    Gaussian(scale=0.5),
    Bernoulli(),
    GaussianNoise(scale=0.2),
    FeatureMasking(rate=0.5),
    FeatureCorruption(rate=(0.2, 0.5), donors="class"),
    Mixup(min_share=0.8),
    Compose("gaussian_noise", Compose("feature_masking", FeatureCorruption(0.1))),
    NTXent(temperature=0.1),
    L1(weight=0.2),
]


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(30, 4))


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_a_part_is_a_value(part):
    copy = clone(part)
    assert copy is not part
    assert repr(copy) == repr(part)
    assert repr(eval(repr(part))) == repr(part)


def test_the_kinds_are_those_of_the_parameters():
    estimators = [AutoencoderTransformer, VAETransformer, ContrastiveTransformer]
    assert {kind for e in estimators for kind in e._part_kinds.values()} == set(KINDS)


def test_a_part_of_a_user_is_reached_by_the_name_in_its_class_statement(X):
    class Shift(Augmentation, name="shift"):
        def build(self, columns):
            return GaussianNoise(scale=0.0).build(columns)

    try:
        fitted = AutoencoderTransformer(augmentation="shift", max_iter=1).fit(X)
        assert fitted.n_iter_ == 1
        assert Augmentation.names["shift"] is Shift
        assert "shift" not in Penalty.names
    finally:
        del Augmentation.names["shift"]


def test_a_name_stands_for_one_class():
    with pytest.raises(
        ValueError, match=r"'nt_xent' of Mine is that of .*NTXent already"
    ):

        class Mine(Objective, name="nt_xent"):
            pass

    with pytest.raises(ValueError, match=r"name of Other is 3\. Expected a string"):

        class Other(Objective, name=3):
            pass

    assert Objective.names["nt_xent"] is NTXent
    try:
        for module in "skrepr.objectives", "skrepr.objectives._pairs":  # as in a reload
            attributes = {"__module__": module, "__qualname__": "NTXent"}
            again = type(Objective)("NTXent", (Objective,), attributes, name="nt_xent")
            assert Objective.names["nt_xent"] is again
    finally:
        Objective.names["nt_xent"] = NTXent
    try:
        for _ in range(2):  # as when a cell of a notebook is run again

            class Again(Objective, name="again"):
                pass

            assert Objective.names["again"] is Again
    finally:
        del Objective.names["again"]


def test_a_class_in_the_place_of_a_part_is_to_be_called(X):
    with pytest.raises(InvalidParameterError, match=r"Call the class: NTXent\(\)\.$"):
        ContrastiveTransformer(objective=NTXent).fit(X)


def test_none_is_offered_where_it_is_allowed(X):
    with pytest.raises(InvalidParameterError, match=r"'penalty' .* None, .* allowed"):
        AutoencoderTransformer(penalty=3).fit(X)
    with pytest.raises(InvalidParameterError, match=r"'backbone' .* Got 3 instead\.$"):
        AutoencoderTransformer(backbone=3).fit(X)


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_stands_for_the_part_at_its_defaults(kind):
    for name, part in kind.names.items():
        assert issubclass(part, kind)
        assert not part().get_params() or repr(part()) == f"{part.__name__}()"
        assert name == name.lower()


@pytest.mark.parametrize(
    ("parameter", "value", "kind", "name"),
    [
        ("backbone__hidden_layer_sizes", (8,), MLP, "mlp"),
        ("likelihood__scale", 0.3, Gaussian, "gaussian"),
        ("augmentation__scale", 0.3, GaussianNoise, "gaussian_noise"),
        ("penalty__weight", 0.3, L1, "l1"),
    ],
)
def test_a_nested_parameter_puts_the_part_in_place_of_its_name(
    parameter, value, kind, name
):
    key, _, nested = parameter.partition("__")
    ae = AutoencoderTransformer(**{key: name})
    assert ae.set_params(**{parameter: value}) is ae
    part = getattr(ae, key)
    assert type(part) is kind
    assert part.get_params() == kind(**{nested: value}).get_params()
    assert ae.get_params()[parameter] == value


def test_several_nested_parameters_meet_in_one_part():
    ae = AutoencoderTransformer()
    ae.set_params(backbone__norm="layer", backbone__dropout=0.1, n_components=2)
    assert repr(ae.backbone) == "MLP(dropout=0.1, norm='layer')"
    assert ae.n_components == 2


@pytest.mark.parametrize("given_first", ["name", "nested"])
def test_a_name_and_its_nested_parameter_may_be_set_together(given_first):
    params = {"augmentation__rate": 0.7, "augmentation": "feature_masking"}
    if given_first == "name":
        params = dict(reversed(params.items()))
    ae = AutoencoderTransformer(augmentation=GaussianNoise()).set_params(**params)
    assert repr(ae.augmentation) == "FeatureMasking(rate=0.7)"


def test_a_nested_parameter_changes_a_part_that_is_there():
    ae = AutoencoderTransformer(backbone=MLP(norm="batch"))
    ae.set_params(backbone__hidden_layer_sizes=(7,))
    assert repr(ae.backbone) == "MLP(hidden_layer_sizes=(7,), norm='batch')"


def test_nested_compositions_are_reached_from_their_names():
    contrastive = ContrastiveTransformer(
        augmentation=Compose(
            "gaussian_noise", Compose("feature_masking", "gaussian_noise")
        )
    )
    contrastive.set_params(
        augmentation__first__scale=0.7, augmentation__second__first__rate=0.9
    )
    assert repr(contrastive.augmentation) == repr(
        Compose(
            GaussianNoise(scale=0.7),
            Compose(FeatureMasking(rate=0.9), "gaussian_noise"),
        )
    )


def test_clones_share_no_part():
    ae = AutoencoderTransformer(backbone=MLP((5,)))
    clone(ae).set_params(backbone__hidden_layer_sizes=(9,))
    assert ae.backbone.hidden_layer_sizes == (5,)


def test_a_grid_search_reaches_the_parameters_of_a_default_name(X):
    ae = AutoencoderTransformer(2, max_iter=2, random_state=0)
    grid = {"backbone__hidden_layer_sizes": [(4,), (8,)]}
    search = GridSearchCV(ae, grid, cv=2).fit(X)
    widths = search.best_params_["backbone__hidden_layer_sizes"]
    assert search.best_estimator_.module_.encoder.network[0].out_features == widths[0]
    assert ae.backbone == "mlp"


def test_an_unknown_name_lists_the_known_ones():
    ae = AutoencoderTransformer(augmentation="noise")
    known = r"'feature_corruption', 'feature_masking', 'gaussian_noise'"
    with pytest.raises(ValueError, match=rf"{known}.*Got 'noise'"):
        ae.set_params(augmentation__scale=0.1)
    composition = Compose("noise", "gaussian_noise")
    with pytest.raises(ValueError, match=rf"'first'.*Compose.*{known}.*Got 'noise'"):
        composition.build(None)


def test_an_unknown_nested_parameter_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"Invalid parameter 'tau'.*'temperature'"):
        ContrastiveTransformer().set_params(objective__tau=0.1)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (AutoencoderTransformer(backbone="cnn"), r"'backbone' .* 'mlp' .*'cnn'"),
        (AutoencoderTransformer(backbone=L1()), r"'backbone' .*Backbone.* Got L1\(\)"),
        (AutoencoderTransformer(backbone=MLP), r"'backbone' .*Got <class"),
        (VAETransformer(likelihood=None), r"'likelihood' .* Got None"),
        (ContrastiveTransformer(augmentation=None), r"'augmentation' .* Got None"),
    ],
)
def test_a_part_of_the_wrong_kind_is_an_error(X, estimator, message):
    with pytest.raises(ValueError, match=message):
        estimator.fit(X)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (AutoencoderTransformer(backbone=MLP(activation="sin")), "'activation'.*MLP"),
        (AutoencoderTransformer(backbone=MLP(dropout=1.0)), "'dropout' .* MLP"),
        (AutoencoderTransformer(backbone=MLP(norm="group")), "'norm' .* MLP"),
        (AutoencoderTransformer(penalty=L1(weight=-1)), "'weight' .* L1"),
        (VAETransformer(likelihood=Gaussian(scale=0)), "'scale' .* Gaussian"),
        (ContrastiveTransformer(objective=NTXent(0)), "'temperature' .* NTXent"),
        (
            ContrastiveTransformer(augmentation=FeatureCorruption(rate=1.1)),
            "'rate' .* FeatureCorruption",
        ),
        (
            ContrastiveTransformer(
                augmentation=Compose("gaussian_noise", FeatureMasking(-1))
            ),
            "'rate' .* FeatureMasking",
        ),
        (
            ContrastiveTransformer(
                augmentation=Compose(GaussianNoise(-1), "gaussian_noise")
            ),
            "'scale' .* GaussianNoise",
        ),
        (ContrastiveTransformer(augmentation=Mixup(1.5)), "'min_share' .* Mixup"),
        (
            AutoencoderTransformer(augmentation=FeatureCorruption(donors="row")),
            "'donors' .* FeatureCorruption",
        ),
        (
            AutoencoderTransformer(augmentation=FeatureMasking((0.5, 1.5))),
            "'rate' .* FeatureMasking .*lowest, highest",
        ),
    ],
)
def test_the_parameters_of_a_part_are_validated_in_fit(X, estimator, message):
    with pytest.raises(ValueError, match=message):
        estimator.fit(X)


def test_fit_changes_no_part(X):
    parts = {
        "backbone": MLP((4,)),
        "likelihood": Gaussian(),
        "augmentation": Compose("gaussian_noise", FeatureMasking()),
        "penalty": L1(),
    }
    before = {key: vars(part).copy() for key, part in parts.items()}
    ae = AutoencoderTransformer(2, **parts, max_iter=2, random_state=0).fit(X)
    first = ae.transform(X)
    for key, part in parts.items():
        assert getattr(ae, key) is part
        assert vars(part) == before[key]
    assert_array_equal(ae.fit(X).transform(X), first)


def test_estimators_share_a_part_but_no_weights(X):
    backbone = MLP((4,))
    a, b = (
        AutoencoderTransformer(2, backbone=backbone, max_iter=2, random_state=seed)
        for seed in (0, 1)
    )
    before = a.fit(X).transform(X)
    b.fit(X)
    assert_array_equal(a.transform(X), before)
    assert not np.allclose(b.transform(X), before)


@pytest.mark.parametrize(
    ("composition", "name"),
    [
        (Compose("gaussian_noise", None), "second"),
        (Compose(None, "gaussian_noise"), "first"),
        (Compose("gaussian_noise", L1()), "second"),
        (Compose("gaussian_noise", Compose("noise", "gaussian_noise")), "first"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", [AutoencoderTransformer, ContrastiveTransformer])
def test_a_composition_of_something_else_is_an_invalid_parameter(
    X, kind, composition, name
):
    message = rf"The '{name}' parameter of Compose must be one of the names .* Got"
    with pytest.raises(InvalidParameterError, match=message):
        kind(augmentation=composition).fit(X)


@pytest.mark.parametrize(
    ("call", "method"),
    [
        (lambda: Backbone().encoder(1, 1), "encoder"),
        (lambda: Backbone().decoder(1, 1), "decoder"),
        (lambda: Likelihood().build(None), "build"),
        (lambda: Objective().build(None, None, 1), "build"),
        (lambda: Augmentation().build(None), "build"),
        (lambda: Penalty().build(1), "build"),
    ],
)
def test_the_base_class_of_a_kind_says_what_to_implement(call, method):
    with pytest.raises(NotImplementedError, match=rf"must implement {method}"):
        call()


def test_a_transformer_must_build_a_module(X):
    with pytest.raises(NotImplementedError):
        BaseTorchEstimator._build_module(AutoencoderTransformer(), None)


class Flip(Augmentation):
    """A user's own part."""

    _parameter_constraints = {"rate": [float]}

    def __init__(self, rate=0.5):
        self.rate = rate

    def build(self, columns):
        return _Flip(self.rate)


class _Flip(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x, generator, ids=None):
        coin = torch.empty_like(x).uniform_(generator=generator)
        return torch.where(coin < self.rate, -x, x)


def test_a_part_of_the_user_is_as_good_as_ours(X):
    contrastive = ContrastiveTransformer(
        2, augmentation=Compose(Flip(0.1), "gaussian_noise"), max_iter=2, random_state=0
    )
    contrastive.set_params(augmentation__first__rate=0.2)
    assert_array_equal(
        contrastive.fit(X).transform(X), clone(contrastive).fit(X).transform(X)
    )
    contrastive.set_params(augmentation__first__rate="often")
    with pytest.raises(ValueError, match=r"'rate' .* Flip"):
        contrastive.fit(X)


def negate(x, generator):
    """Stand in the place of an augmentation."""
    return -x


class Scaling(nn.Module):
    """A callable with something to learn."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x, generator):
        return self.factor * x


def test_a_function_stays_as_it_is_in_parameters_clones_and_searches(X):
    ae = AutoencoderTransformer(2, augmentation=negate, max_iter=2, random_state=0)
    assert ae.get_params()["augmentation"] is negate
    assert clone(ae).augmentation is negate
    assert ae.fit(X).augmentation is negate
    composition = clone(Compose(negate, Compose("mixup", negate)))
    assert composition.get_params()["first"] is negate
    assert composition.get_params()["second__second"] is negate
    grid = {"augmentation": [negate, "mixup", Compose("mixup", negate)]}
    search = GridSearchCV(ae, grid, cv=2).fit(X)
    assert search.cv_results_["param_augmentation"][0] is negate
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_an_estimator_with_a_function_can_be_pickled(X):
    ae = AutoencoderTransformer(2, augmentation=negate, max_iter=2).fit(X)
    assert_array_equal(pickle.loads(pickle.dumps(ae)).transform(X), ae.transform(X))


def test_fit_changes_no_module_in_the_place_of_a_function(X):
    scaling = Scaling()
    ae = AutoencoderTransformer(2, augmentation=scaling, max_iter=5, random_state=0)
    ae.fit(X)
    assert scaling.factor == 1
    assert scaling.factor.requires_grad
    assert ae.module_.augment.function.factor != 1


@pytest.mark.parametrize(
    ("estimator", "name"),
    [
        (AutoencoderTransformer(augmentation=GaussianNoise), "augmentation"),
        (ContrastiveTransformer(augmentation=Mixup), "augmentation"),
        (ContrastiveTransformer(augmentation=Compose(Mixup, negate)), "first"),
        (AutoencoderTransformer(augmentation=Scaling), "augmentation"),
    ],
)
def test_a_class_is_no_function(X, estimator, name):
    message = rf"'{name}' .*'mixup', a function or an instance of .* Got <class"
    with pytest.raises(ValueError, match=message):
        estimator.fit(X)


@pytest.mark.parametrize(
    "estimator",
    [
        AutoencoderTransformer(backbone=negate),
        AutoencoderTransformer(penalty=negate),
        VAETransformer(likelihood=negate),
        ContrastiveTransformer(objective=negate),
    ],
)
def test_a_function_is_no_part_of_another_kind(X, estimator):
    with pytest.raises(ValueError, match=r"parameter of .* Got <function negate"):
        estimator.fit(X)


def test_a_parameter_of_a_function_cannot_be_set():
    message = r"'augmentation__scale' cannot be set: augmentation is <function negate"
    with pytest.raises(ValueError, match=message):
        AutoencoderTransformer(augmentation=negate).set_params(augmentation__scale=1)


def test_a_parameter_of_an_absent_part_cannot_be_set():
    message = (
        r"'penalty__weight' cannot be set: penalty is None.*one of the names .*'l1'"
    )
    with pytest.raises(ValueError, match=message):
        AutoencoderTransformer(penalty=None).set_params(penalty__weight=0.1)
    ae = AutoencoderTransformer(penalty=None)
    assert ae.set_params(penalty="l1", penalty__weight=0.1).penalty.weight == 0.1


@pytest.mark.parametrize(
    ("estimator", "kind", "name", "expected"),
    [
        (ContrastiveTransformer, Objective, "objective", "objectives.ObjectiveModule"),
        (VAETransformer, Likelihood, "likelihood", "likelihoods.LikelihoodModule"),
        (AutoencoderTransformer, ErrorModel, "error_model", "error_models.ErrorModel"),
    ],
)
def test_a_module_without_its_base_class_is_an_error(
    X, estimator, kind, name, expected
):
    class Bare(kind):
        def build(self, *args, **options):
            return nn.Linear(2, 2)

    message = rf"Bare.build returned .* class Linear. Expected a skrepr.{expected}"
    with pytest.raises(TypeError, match=message):
        estimator(2, max_iter=1).set_params(**{name: Bare()}).fit(X)
