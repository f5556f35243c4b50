"""Muon in float32 against torch's, which calculates in bfloat16; the schedule."""

import pytest
import torch

from sft.optimizers import Float32Muon, make_optimizers, make_schedulers, orthogonal

SHAPES = ((64, 32), (32, 64), (48, 48), (64, 32))
JORDAN = (3.4445, -4.7750, 2.0315)


def trained(kind, steps=5):
    """An optimizer of that kind and its matrices, after some steps with random gradients."""
    generator = torch.Generator().manual_seed(0)
    matrices = [
        torch.nn.Parameter(0.02 * torch.randn(shape, generator=generator)) for shape in SHAPES
    ]
    optimizer = kind(matrices, lr=0.02, momentum=0.95, weight_decay=0.25)
    for _ in range(steps):
        for matrix in matrices:
            matrix.grad = torch.randn(matrix.shape, generator=generator)
        optimizer.step()
    return optimizer, matrices


# Muon


@pytest.fixture(scope="module")
def torchs():
    return trained(torch.optim.Muon)


@pytest.fixture(scope="module")
def ours():
    return trained(Float32Muon)


def test_muon_steps_as_torch_within_bfloat16(torchs, ours):
    for one, other in zip(torchs[1], ours[1], strict=True):
        assert torch.allclose(one, other, atol=2e-3)


def test_muon_moves_the_matrices(ours):
    _, before = trained(Float32Muon, steps=0)
    assert not any(torch.allclose(*pair, atol=2e-3) for pair in zip(ours[1], before, strict=True))


def test_muon_keeps_the_momentum_of_torch(torchs, ours):
    buffers = [
        [optimizer.state[matrix]["momentum_buffer"] for matrix in matrices]
        for optimizer, matrices in (torchs, ours)
    ]
    assert all(torch.equal(*pair) for pair in zip(*buffers, strict=True))


def test_muon_has_the_settings_of_torch(torchs, ours):
    one, other = (optimizer.state_dict()["param_groups"] for optimizer, _ in (torchs, ours))
    assert one == other


def test_muon_goes_on_from_a_state_of_torch(torchs):
    optimizer, matrices = trained(Float32Muon, steps=0)
    optimizer.load_state_dict(torchs[0].state_dict())
    assert all("momentum_buffer" in optimizer.state[matrix] for matrix in matrices)


# Matrices made orthogonal


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 8, 8)])
def test_singular_values_come_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonal(matrices, JORDAN, steps=5, eps=1e-7))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_a_matrix_is_the_same_alone_as_in_company():
    matrices = torch.randn(4, 8, 20, generator=torch.Generator().manual_seed(2))
    together = orthogonal(matrices, JORDAN, steps=5, eps=1e-7)
    alone = [orthogonal(matrix[None], JORDAN, steps=5, eps=1e-7) for matrix in matrices]
    assert torch.allclose(torch.cat(alone), together, atol=1e-5)


# What goes where, and how fast


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_every_parameter_has_one_optimizer(tiny, kind):
    owned = []
    for optimizer in make_optimizers(tiny, kind, 1e-3, 0.02):
        owned += [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(map(id, tiny.parameters()))


@pytest.mark.parametrize(
    ("decay", "step", "rate"),
    [  # of 100 steps; the first ten warm up
        (0.5, 0, 0.1),
        (0.5, 9, 1.0),
        (0.5, 50, 1.0),
        (0.5, 90, 0.2),
        (0.2, 80, 1.0),
        (0.2, 90, 0.5),
        (0.2, 99, 0.05),
    ],
)
def test_the_rate_is_constant_until_it_falls(tiny, decay, step, rate):
    optimizers = make_optimizers(tiny, "adamw", 1.0)
    [scheduler] = make_schedulers(optimizers, 100, decay)
    for _ in range(step):
        optimizers[0].step()
        scheduler.step()
    assert optimizers[0].param_groups[0]["lr"] == pytest.approx(rate)
