"""What users' parts return is checked where it comes from, and named by its class."""

import numpy as np
import pytest
import torch
from torch import nn

from skrepr import (
    AutoencoderTransformer,
    ContrastiveTransformer,
    FineTunedClassifier,
    VAETransformer,
)
from skrepr.augmentations import Augmentation, Compose
from skrepr.auxiliaries import Auxiliary
from skrepr.backbones import Backbone
from skrepr.error_models import ErrorModel, ErrorModelModule
from skrepr.latent_densities import LatentDensity
from skrepr.likelihoods import Likelihood, LikelihoodModule
from skrepr.objectives import Objective, ObjectiveModule
from skrepr.penalties import Penalty

X = np.random.default_rng(0).normal(size=(20, 3))
Autoencoder, VAE = (
    lambda kind=kind, **parts: kind(2, max_iter=1, random_state=0, **parts)
    for kind in (AutoencoderTransformer, VAETransformer)
)


def contrastive(**parts):
    return ContrastiveTransformer(2, max_iter=2, random_state=0, **parts)


class Answer(ObjectiveModule):
    """Returns what a function makes of the arguments."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


class MyObjective(Objective):
    def __init__(self, of_codes):
        self.of_codes = of_codes

    def build(self, encoder, head, n_components):
        return Answer(lambda views: self.of_codes(views.codes))


class MyAuxiliary(Auxiliary):
    def __init__(self, of_codes):
        self.of_codes = of_codes

    def build(self, columns, n_components):
        return Answer(lambda views: self.of_codes(views.codes))


class MyPenalty(Penalty):
    def __init__(self, of_codes, constrained=None):
        self.of_codes = of_codes
        self.constrained = constrained

    def build(self, n_components):
        return Answer(lambda encoded: self.of_codes(encoded.codes))

    def constraint(self, n_components):
        return None if self.constrained is None else Answer(self.constrained)


class MyAugmentation(Augmentation):
    def __init__(self, of_rows):
        self.of_rows = of_rows

    def build(self, columns):
        return Answer(lambda x, generator, ids=None: self.of_rows(x))


class MyBackbone(Backbone):
    def __init__(self, encoder=0, decoder=0):
        self.more = {"encoder": encoder, "decoder": decoder}

    def encoder(self, n_inputs, n_outputs):
        return self.network("encoder", n_inputs, n_outputs)

    def decoder(self, n_inputs, n_outputs):
        return self.network("decoder", n_inputs, n_outputs)

    def network(self, end, n_inputs, n_outputs):
        more = self.more[end]
        if more is None:
            return None
        return nn.Sequential(nn.Linear(n_inputs, n_outputs + more), nn.Dropout(0.5))


class MyLikelihood(Likelihood):
    def __init__(self, **methods):
        self.methods = methods

    def build(self, columns, *, noise=True):
        module = LaplaceModule(columns)
        for name, method in self.methods.items():
            setattr(module, name, method)
        return module


class LaplaceModule(LikelihoodModule):
    def log_prob(self, x, output):
        return -(x - output).abs()

    def mean(self, output):
        return output

    def sample(self, output, generator):
        return output + torch.empty_like(output).normal_(generator=generator)


class MyErrorModel(ErrorModel):
    def __init__(self, of_errors):
        self.of_errors = of_errors

    def build(self, columns):
        module = MyErrorModule()
        module.of_errors = self.of_errors
        return module


class MyErrorModule(ErrorModelModule):
    def forward(self, errors):
        return self.of_errors(errors)


class MyDensity(LatentDensity):
    def __init__(self, of_number):
        self.of_number = of_number

    def build(self, codes, seed):
        density = nn.Module()
        density.sample = lambda n_samples, generator: self.of_number(n_samples)
        return density


@pytest.mark.parametrize("part", [MyObjective, MyAuxiliary])
@pytest.mark.parametrize(
    ("of_codes", "returned"),
    [
        (lambda z: None, "None"),
        (lambda z: z.square().mean(), r"a tensor of shape \(\)"),
        (lambda z: [z.mean()], "an object of the class list"),
        (lambda z: {"loss": 0.5}, "a dict whose 'loss' is an object of the class flo"),
        (lambda z: {"loss": z.sum(1)}, r"a dict whose 'loss' is a tensor of shape \("),
    ],
)
def test_a_loss_is_a_dict_of_named_numbers(part, of_codes, returned):
    name = "objective" if part is MyObjective else "auxiliary"
    message = rf"Answer\.forward returned {returned}.* Expected a dict of named 0-d"
    with pytest.raises(TypeError, match=message):
        contrastive(**{name: part(of_codes)}).fit(X)


@pytest.mark.parametrize(
    "of_codes", [lambda z: {}, lambda z: {"size": z.detach().square().mean()}]
)
def test_a_loss_has_a_derivative(of_codes):
    message = (
        rf"None of the terms \[({'' if not of_codes(torch.ones(2)) else '.size.'})"
    )
    with pytest.raises(TypeError, match=message):
        contrastive(objective=MyObjective(of_codes)).fit(X)


def test_a_term_without_a_derivative_may_stand_beside_others():
    terms = MyObjective(lambda z: {"size": z.square().mean(), "one": torch.ones(())})
    assert contrastive(objective=terms).fit(X).history_["one"] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (
            Autoencoder(penalty=MyPenalty(lambda z: {"size": z.square().mean()})),
            r"Answer\.forward returned an object of the class dict.*shape \(\)",
        ),
        (
            Autoencoder(penalty=MyPenalty(torch.mean, lambda z: z[:, :1])),
            r"MyPenalty\.constraint .* to a tensor of shape \(2, 1\).*shape \(2, 2\)",
        ),
        (
            contrastive(augmentation=MyAugmentation(lambda x: x[:, :2])),
            r"Answer\.forward returned a tensor .*\(2, 2\).*tensor of shape \(2, 3\)",
        ),
        (
            FineTunedClassifier(
                Autoencoder(), augmentation=MyAugmentation(lambda x: x[0])
            ),
            r"Answer\.forward returned a tensor .*\(3,\).*tensor of shape \(2, 3\)",
        ),
        (
            Autoencoder(augmentation=Compose("mixup", MyAugmentation(torch.sum))),
            r"Answer\.forward returned a tensor .*\(\).*tensor of shape \(2, 3\)",
        ),
        (
            contrastive(backbone=MyBackbone(encoder=1)),
            r"MyBackbone\.encoder .* to a tensor of shape \(2, 3\).*of shape \(2, 2\)",
        ),
        (
            VAE(backbone=MyBackbone(encoder=2)),
            r"MyBackbone\.encoder .* to a tensor of shape \(2, 6\).*of shape \(2, 4\)",
        ),
        (VAE(backbone=MyBackbone(encoder=None)), r"MyBackbone\.encoder returned None"),
        (
            Autoencoder(backbone=MyBackbone(decoder=-2)),  # which would broadcast
            r"MyBackbone\.decoder .* to a tensor of shape \(2, 1\).*of shape \(2, 3\)",
        ),
        (
            VAE(likelihood=MyLikelihood(log_prob=lambda x, o: (x - o).sum(-1))),
            r"Module\.log_prob returned .*\(3, 2\).*tensor of shape \(3, 2, 3\)",
        ),
        (
            Autoencoder(likelihood=MyLikelihood(cost=lambda x, o: x)),
            r"Module\.cost returned .*\(2, 3\).*tensor of shape \(3, 2, 3\)",
        ),
        (
            Autoencoder(likelihood=MyLikelihood(mean=lambda o: o[..., :1])),
            r"Module\.mean returned .*\(3, 2, 1\).*tensor of shape \(3, 2, 3\)",
        ),
        (
            Autoencoder(likelihood={1: MyLikelihood(sample=lambda o, generator: None)}),
            r"Module\.sample returned None.*tensor of shape \(3, 2, 1\)",
        ),
    ],
)
def test_what_a_part_returns_is_checked_when_the_training_begins(estimator, message):
    with pytest.raises(TypeError, match=message):
        estimator.fit(X, np.arange(20) % 2)


@pytest.mark.parametrize("method", ["log_prob", "mean", "sample"])
@pytest.mark.parametrize("kind", [Autoencoder, VAE])
def test_a_method_that_is_missing_is_found_when_the_training_begins(
    kind, method, monkeypatch
):
    monkeypatch.delattr(LaplaceModule, method)
    message = f"LaplaceModule must implement {method}"
    with pytest.raises(NotImplementedError, match=message):
        kind(likelihood=MyLikelihood()).fit(X)


def test_contributions_are_as_many_as_cells():
    of_rows = MyErrorModel(lambda errors: errors[:, 1].square().sum(1))
    with pytest.raises(TypeError, match=r"MyErrorModule\.forward returned .*\(20, 3\)"):
        Autoencoder(error_model=of_rows).fit(X).score_samples(X)


@pytest.mark.parametrize(
    ("of_number", "returned"),
    [
        (lambda n: np.zeros((n, 2)), "an object of the class ndarray"),
        (lambda n: torch.zeros(n, 3), r"a tensor of shape \(\d+, 3\)"),
    ],
)
def test_codes_are_as_many_as_asked_for_and_as_long_as_the_models(of_number, returned):
    density = MyDensity(of_number)
    with pytest.raises(TypeError, match=rf"Module\.sample returned {returned}"):
        Autoencoder(latent_density=density).fit(X).sample(5)


def test_checks_draw_no_number_of_the_users_and_change_none_of_the_fits(monkeypatch):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    part = {"backbone": MyBackbone(), "likelihood": MyLikelihood()}
    codes = VAE(**part).fit(X).transform(X)
    assert torch.equal(torch.get_rng_state(), before)
    for module in "_columns._inputs", "_estimators._vae":
        monkeypatch.setattr(
            f"skrepr.{module}.build_network",
            lambda backbone, end, *widths: getattr(backbone, end)(*widths),
        )
    assert np.array_equal(codes, VAE(**part).fit(X).transform(X))
