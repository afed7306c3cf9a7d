"""How an image is rewritten with a dictionary: the paper's eq. 6 and 8, λ from the image's noise, and the refit."""

import pytest
import torch

from raypurify.config import CscSettings
from raypurify.csc import noise_level, solve_cbpdn, tikhonov_split
from raypurify.errors import DataError
from raypurify.purifiers.rewriting import MAX_GAIN, gain, rewrite


@pytest.fixture(scope="module")
def atoms():
    drawn = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return drawn / drawn.flatten(1).norm(dim=1)[:, None, None, None]


@pytest.fixture(scope="module")
def images():
    """Three of one scene under more and more noise."""
    generator = torch.Generator().manual_seed(1)
    scene = torch.nn.functional.interpolate(torch.rand(1, 3, 5, 5, generator=generator), (20, 22), mode="bicubic")
    noise = torch.randn(3, 3, 20, 22, generator=generator)
    return (scene + torch.tensor([0.0, 0.03, 0.09])[:, None, None, None] * noise).clamp(0, 1)


def test_with_the_papers_settings_it_is_low_plus_code(atoms, images):
    csc = CscSettings(lmbda=0.1)
    low, high = tikhonov_split(images, lmbda=csc.tikhonov, pad=csc.pad)
    torch.testing.assert_close(low + high, images)
    code = solve_cbpdn(atoms, high, lmbda=csc.lmbda, rel_tol=csc.rel_tol)
    assert torch.equal(rewrite(images, atoms, csc)[0], (low + code.reconstruction).clamp(0, 1))


def test_lambda_follows_the_noise_between_half_and_three_times_itself(atoms, images):
    """Each image as if it were coded by itself, under the λ that its noise asks for."""
    csc = CscSettings(lmbda=0.1, noise_factor=3.0, rel_tol=1e-7)
    atoms, images = atoms.double(), images.double()
    wanted = (3.0 * noise_level(images)).clamp(0.05, 0.3)
    assert wanted[0] == 0.05
    assert 0.05 < wanted[1] < wanted[2] < 0.3
    found, _ = rewrite(images, atoms, csc)
    for image, lmbda, got in zip(images.split(1), wanted.tolist(), found.split(1)):
        alone, _ = rewrite(image, atoms, CscSettings(lmbda=lmbda, rel_tol=1e-7))
        torch.testing.assert_close(got, alone, atol=1e-5, rtol=0)


def test_the_refit_is_the_least_squares_scale_of_what_was_coded(atoms, images):
    csc = CscSettings(lmbda=0.1)
    low, high = tikhonov_split(images, lmbda=csc.tikhonov, pad=csc.pad)
    plain, _ = rewrite(images, atoms, csc)
    fitted, code = rewrite(images, atoms, csc.model_copy(update={"refit": True}))
    scale = gain(code.reconstruction, high)
    assert (scale > 1).all()
    torch.testing.assert_close(fitted, (low + scale[:, None, None, None] * code.reconstruction).clamp(0, 1))
    errors = [(some - images).flatten(1).norm(dim=1) for some in (fitted, plain)]
    assert (errors[0] < errors[1]).all()
    # At the optimum of the sparse code the scale is known without the signal.
    exact = solve_cbpdn(atoms.double(), high.double(), lmbda=csc.lmbda, rel_tol=1e-7)
    size = exact.reconstruction.square().flatten(1).sum(1)
    expected = 1 + csc.lmbda * exact.codes.abs().flatten(1).sum(1) / size
    torch.testing.assert_close(gain(exact.reconstruction, high), expected.clamp(max=MAX_GAIN), rtol=1e-4, atol=0)


def test_gain_of_little_is_bounded():
    coded, high = torch.tensor([[1e-6, 0.0], [0.0, 0.0]]), torch.ones(2, 2)
    assert gain(coded, high).tolist() == [MAX_GAIN, 1.0]


@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.2])
def test_noise_of_a_known_size_is_found(sigma):
    generator = torch.Generator().manual_seed(2)
    ramp = torch.linspace(0, 1, 64).expand(3, 64, 64)
    noisy = ramp + sigma * torch.randn(4, 3, 64, 64, generator=generator)
    torch.testing.assert_close(noise_level(noisy), torch.full((4,), sigma), rtol=0.08, atol=0)
    torch.testing.assert_close(noise_level(3 * noisy), 3 * noise_level(noisy))


def test_no_noise_no_level_and_odd_sides():
    assert noise_level(torch.full((2, 3, 9, 8), 0.3)).tolist() == [0, 0]
    assert torch.equal(noise_level(torch.eye(9).expand(1, 1, 9, 9)), noise_level(torch.eye(8).expand(1, 1, 8, 8)))
    with pytest.raises(DataError, match="2×2"):
        noise_level(torch.zeros(1, 3, 1, 8))


def test_gradient_agrees_with_finite_differences_of_the_image_under_its_lambda(atoms):
    """The refit depends on the image, as an attacker has to know; λ is held constant."""
    generator = torch.Generator().manual_seed(3)
    image = (0.5 + 0.1 * torch.randn(1, 3, 12, 12, generator=generator)).double().clamp(0, 1)
    csc = CscSettings(lmbda=0.1, noise_factor=1.5, refit=True, rel_tol=1e-8)
    weight = torch.randn(image.shape, generator=generator).double()

    def value(x, csc):
        return (rewrite(x, atoms.double(), csc, differentiable="implicit")[0] * weight).sum()

    inputs = image.clone().requires_grad_()
    (found,) = torch.autograd.grad(value(inputs, csc), inputs)
    lmbda = 1.5 * noise_level(image).item()
    assert 0.05 < lmbda < 0.3
    held = CscSettings(lmbda=lmbda, refit=True, rel_tol=1e-8)
    for seed in range(3):
        step = 1e-5 * torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)).double()
        with torch.no_grad():
            measured = (value(image + step, held) - value(image - step, held)) / 2
        torch.testing.assert_close((found * step).sum(), measured, rtol=0.02, atol=0.02e-5 * float(found.norm()))
