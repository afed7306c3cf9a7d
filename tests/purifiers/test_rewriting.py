"""How an image is rewritten with a dictionary: the paper's eq. 6 and 8, λ from the image's noise, and the refit."""

import pytest
import torch

from raypurify.config import CscSettings
from raypurify.csc import noise_level, smooth_noise_level, solve_cbpdn, tikhonov_split
from raypurify.errors import DataError
from raypurify.purifiers import rewriting
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
    """The refit depends on the image, as an attacker has to know; λ too, unless it is held."""
    generator = torch.Generator().manual_seed(3)
    image = (0.5 + 0.1 * torch.randn(1, 3, 12, 12, generator=generator)).double().clamp(0, 1)
    csc = CscSettings(lmbda=0.1, noise_factor=1.5, refit=True, rel_tol=1e-8)
    weight = torch.randn(image.shape, generator=generator).double()

    def value(x, csc):
        return (rewrite(x, atoms.double(), csc, differentiable="implicit", hold_lmbda=hold)[0] * weight).sum()

    hold, inputs = True, image.clone().requires_grad_()
    (found,) = torch.autograd.grad(value(inputs, csc), inputs)
    lmbda = 1.5 * noise_level(image).item()
    assert 0.05 < lmbda < 0.3
    held = CscSettings(lmbda=lmbda, refit=True, rel_tol=1e-8)
    for seed in range(3):
        step = 1e-5 * torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)).double()
        with torch.no_grad():
            measured = (value(image + step, held) - value(image - step, held)) / 2
        torch.testing.assert_close((found * step).sum(), measured, rtol=0.02, atol=0.02e-5 * float(found.norm()))


def test_the_gradient_through_lambda_agrees_with_finite_differences(atoms, monkeypatch):
    """Those of the purifier with the smooth estimate in the true one's place."""
    generator = torch.Generator().manual_seed(3)
    image = (0.5 + 0.1 * torch.randn(1, 3, 12, 12, generator=generator)).double().clamp(0, 1)
    csc = CscSettings(lmbda=0.1, noise_factor=1.2, rel_tol=1e-8)
    weight = torch.randn(image.shape, generator=generator).double()
    monkeypatch.setattr(rewriting, "noise_level", smooth_noise_level)
    assert 0.05 < 1.2 * smooth_noise_level(image).item() < 0.3

    def value(x, **options):
        return (rewrite(x, atoms.double(), csc, differentiable="implicit", **options)[0] * weight).sum()

    inputs = image.clone().requires_grad_()
    found, held = (torch.autograd.grad(value(inputs, hold_lmbda=hold), inputs)[0] for hold in (False, True))
    assert (found - held).norm() > 0.05 * found.norm()
    for seed in range(3):
        # Along the way that changes the noise most, and others.
        way = (found - held) / (found - held).norm() if not seed else torch.randn(image.shape, generator=generator)
        step = 1e-5 * way.double()
        with torch.no_grad():
            measured = (value(image + step) - value(image - step)) / 2
        torch.testing.assert_close((found * step).sum(), measured, rtol=0.02, atol=0.02e-5 * float(found.norm()))


def test_the_smooth_noise_level_is_near_the_true_one_and_tells_what_steps_do_to_it():
    generator = torch.Generator().manual_seed(4)
    scene = torch.nn.functional.interpolate(torch.rand(6, 3, 5, 5, generator=generator), (32, 32), mode="bicubic")
    images = (scene + 0.02 * torch.randn(scene.shape, generator=generator)).clamp(0.05, 0.95).double()
    inputs = images.clone().requires_grad_()
    level = smooth_noise_level(inputs)
    torch.testing.assert_close(level.detach(), noise_level(images), rtol=0.25, atol=0)
    (found,) = torch.autograd.grad(level.sum(), inputs)
    ways = torch.randn(images.shape, generator=generator).double()
    measured = (smooth_noise_level(images + 1e-6 * ways) - smooth_noise_level(images - 1e-6 * ways)) / 2e-6
    torch.testing.assert_close((found * ways).flatten(1).sum(1), measured, rtol=1e-4, atol=1e-6)
    # A step of an attack, where the gradient of the true median, that of one square, sees next to nothing.
    step = 1 / 255
    told = step * found.abs().flatten(1).sum(1)
    come = noise_level(images + step * found.sign()) - noise_level(images)
    assert (told / come > 0.5).all()
    assert (told / come < 1.5).all()
    exact = images.clone().requires_grad_()
    (one,) = torch.autograd.grad(noise_level(exact).sum(), exact)
    assert (noise_level(images + step * one.sign()) - noise_level(images) < 0.5 * come).all()


def test_no_noise_has_a_gradient_that_is_finite():
    flat = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    assert torch.autograd.grad(smooth_noise_level(flat).sum(), flat)[0].isfinite().all()
