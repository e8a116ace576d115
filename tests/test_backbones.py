"""The networks between the columns and the code."""

import numpy as np
import pytest
import torch
from torch import nn

from skrepr import AutoencoderTransformer
from skrepr.backbones import MLP


def kinds(network):
    return [type(layer) for layer in network]


def widths(network):
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    return [linear[0].in_features, *(layer.out_features for layer in linear)]


@pytest.mark.parametrize("sizes", [(), (7,), (9, 5, 3), [9, 5], np.array([9, 5])])
def test_the_decoder_mirrors_the_encoder(sizes):
    mlp = MLP(hidden_layer_sizes=sizes)
    mlp._validate_params()
    assert widths(mlp.encoder(11, 2)) == [11, *sizes, 2]
    assert widths(mlp.decoder(2, 11)) == [2, *sizes[::-1], 11]


@pytest.mark.parametrize(("k", "width"), [(1, 128), (128, 128), (300, 300)])
def test_automatic_layers_are_no_narrower_than_the_code(k, width):
    mlp = MLP()
    mlp._validate_params()
    assert widths(mlp.encoder(11, k)) == [11, width, width, k]
    assert widths(mlp.decoder(k, 11)) == [k, width, width, 11]


def test_a_hidden_layer_is_linear_norm_activation_dropout():
    mlp = MLP((8, 8), activation="tanh", norm="batch", dropout=0.25)
    hidden = [nn.Linear, nn.BatchNorm1d, nn.Tanh, nn.Dropout]
    assert kinds(mlp.encoder(3, 2)) == [*hidden, *hidden, nn.Linear]
    assert mlp.encoder(3, 2)[3].p == 0.25


@pytest.mark.parametrize(
    ("norm", "layer"), [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm)]
)
def test_norms_by_name(norm, layer):
    assert kinds(MLP((4,), norm=norm).decoder(3, 2))[1] is layer


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("relu", torch.relu),
        ("leaky_relu", lambda x: torch.where(x > 0, x, 0.01 * x)),
        ("elu", lambda x: torch.where(x > 0, x, torch.expm1(x))),
        ("gelu", lambda x: x * torch.distributions.Normal(0, 1).cdf(x)),
        ("silu", lambda x: x * torch.sigmoid(x)),
        ("tanh", torch.tanh),
    ],
)
def test_activations_by_name(name, function):
    activation = MLP((4,), activation=name).encoder(3, 2)[1]
    x = torch.linspace(-4, 4, 33)
    torch.testing.assert_close(activation(x), function(x))


def test_without_hidden_layers_both_networks_are_linear():
    for network in MLP(()).encoder(5, 2), MLP(()).decoder(2, 5):
        assert kinds(network) == [nn.Linear]


def test_every_build_has_weights_of_its_own():
    mlp = MLP((4,))
    a, b = mlp.encoder(3, 2), mlp.encoder(3, 2)
    assert not torch.equal(a[0].weight, b[0].weight)


@pytest.mark.parametrize(
    "sizes",
    [
        *[(8, 0), (8, -1), (8, 2.5), (8, "4"), [[4, 4]], (True,), (8, True), (None,)],
        *[8, np.int64(8), None, "8", {8, 4}, {8: 4}, range(1, 3)],
        *[np.array([8.0]), np.array([True]), np.array([8, 0]), np.array([[8, 4]])],
        np.array(8),
    ],
    ids=repr,
)
def test_bad_sizes_are_an_error_that_shows_good_ones(sizes):
    ae = AutoencoderTransformer(backbone=MLP(hidden_layer_sizes=sizes))
    message = (
        r"'hidden_layer_sizes' parameter of MLP must be 'auto' or a tuple of positive "
        r"integers, such as \(\d+, \d+\), or \(\) for a linear map\. Got"
    )
    with pytest.raises(ValueError, match=message):
        ae.fit(np.ones((4, 2)))


@pytest.mark.parametrize(
    "sizes", [(4, 3), [4, 3], np.array([4, 3]), np.array([4, 3], np.uint8)], ids=repr
)
def test_tuples_lists_and_arrays_of_sizes_give_the_same_fit(sizes):
    X = np.random.default_rng(0).normal(size=(20, 2))
    params = {"n_components": 2, "max_iter": 2, "random_state": 0}
    expected = AutoencoderTransformer(backbone=MLP((4, 3)), **params).fit_transform(X)
    ae = AutoencoderTransformer(backbone=MLP(hidden_layer_sizes=sizes), **params)
    np.testing.assert_array_equal(ae.fit_transform(X), expected)


def test_dropout_is_off_outside_training():
    X = np.random.default_rng(0).normal(size=(50, 4))
    ae = AutoencoderTransformer(
        2, backbone=MLP((64,), dropout=0.5), max_iter=2, random_state=0
    ).fit(X)
    assert not ae.module_.training
    np.testing.assert_array_equal(ae.transform(X), ae.transform(X))
