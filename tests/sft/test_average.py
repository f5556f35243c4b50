"""The mean of the weights of models."""

import pytest
import torch
from conftest import make_tiny

from model import GPT, GPTConfig
from sft.average import average


@pytest.fixture
def two():
    """Two models of one shape with all weights 1 in the one and 3 in the other."""
    models = make_tiny(), make_tiny()
    with torch.no_grad():
        for model, value in zip(models, (1.0, 3.0), strict=True):
            for parameter in model.parameters():
                parameter.fill_(value)
    return list(models)


def test_every_weight_is_the_mean(two):
    assert all((parameter == 2).all() for parameter in average(two).parameters())


def test_tied_heads_stay_tied(two):
    mean = average(two)
    assert mean.lm_head.weight is mean.transformer.wte.weight


def test_one_model_has_no_mean(two):
    with pytest.raises(ValueError, match="a mean needs two models or more, and there are 1"):
        average(two[:1])


def test_models_of_other_shapes_have_no_mean(two):
    wider = GPT(GPTConfig(**vars(two[0].config) | {"n_layer": two[0].config.n_layer + 1}))
    with pytest.raises(ValueError, match="the models have different shapes"):
        average([two[0], wider])
