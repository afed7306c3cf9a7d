"""Dictionaries that are refined for the image at hand."""

import pytest
import torch

from raypurify.config import CscSettings
from raypurify.csc import refine_dictionaries, solve_cbpdn
from raypurify.csc.online import gradient_of_atoms, normalised
from raypurify.purifiers.rewriting import rewrite


@pytest.fixture(scope="module")
def bank():
    return normalised(torch.randn(2, 6, 3, 5, 5, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def signal():
    return 0.3 * torch.randn(3, 3, 16, 18, generator=torch.Generator().manual_seed(1))


INDEX = torch.tensor([1, 0, 1])


def objective(atoms, signal):
    return solve_cbpdn(atoms, signal, 0.2, rel_tol=1e-4, index=torch.arange(len(signal))).objective


def test_the_objective_of_every_image_falls(bank, signal):
    # Problem 2 of STL, over codes and atoms.
    values = [objective(refine_dictionaries(bank, signal, 0.2, n, 1e-4, INDEX), signal) for n in (0, 1, 4)]
    assert (values[1] < values[0]).all()
    assert (values[2] < values[1]).all()


def test_atoms_keep_their_norm_and_are_the_images_own(bank, signal):
    refined = refine_dictionaries(bank, signal, 0.2, 2, index=INDEX)
    assert refined.shape == (3, 6, 3, 5, 5)
    torch.testing.assert_close(refined.flatten(2).norm(dim=2), torch.ones(3, 6))
    alone = refine_dictionaries(bank[1], signal[2:], 0.2, 2)
    torch.testing.assert_close(refined[2:], alone, rtol=1e-4, atol=1e-5)


def test_without_alternations_they_are_as_they_came(bank, signal):
    assert torch.equal(refine_dictionaries(bank, signal, 0.2, 0, index=INDEX), bank[INDEX])
    assert refine_dictionaries(bank[0], signal[:0], 0.2, 3).shape == (0, 6, 3, 5, 5)


def test_an_atom_that_codes_nothing_stays(bank):
    torch.testing.assert_close(refine_dictionaries(bank[0], torch.zeros(1, 3, 9, 9), 0.2, 2)[0], bank[0])


def test_the_gradient_of_each_image_is_that_of_autograd(bank, signal):
    codes = torch.randn(3, 6, 16, 18, generator=torch.Generator().manual_seed(2))
    atoms = bank[INDEX].requires_grad_()
    padded = torch.nn.functional.pad(atoms, (0, 13, 0, 11))
    spectrum = (torch.fft.rfft2(padded) * torch.fft.rfft2(codes)[:, :, None]).sum(1)
    residual = torch.fft.irfft2(spectrum, s=(16, 18)) - signal
    (wanted,) = torch.autograd.grad(residual.square().sum() / 2, atoms)
    found = gradient_of_atoms(codes, residual.detach(), atoms.shape[-2:], each=True)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    whole = gradient_of_atoms(codes, residual.detach(), atoms.shape[-2:])
    torch.testing.assert_close(whole, wanted.sum(0), rtol=1e-3, atol=1e-3)


def test_a_rewritten_image_is_coded_by_its_refined_dictionary(bank):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    settings = CscSettings(lmbda=0.1)
    plain, refined = (rewrite(images, bank[0], settings.model_copy(update={"refine": n}))[1] for n in (0, 2))
    assert (refined.objective < plain.objective).all()
    one = rewrite(images[1:], bank, settings.model_copy(update={"refine": 2}), index=torch.tensor([0]))[0]
    both = rewrite(images, bank, settings.model_copy(update={"refine": 2}), index=torch.tensor([1, 0]))[0]
    torch.testing.assert_close(both[1:], one)


def test_it_is_written_only_where_it_is_on():
    # Bundles and fits of before have no such setting, and keep their bytes.
    assert "refine" not in CscSettings().model_dump()
    assert CscSettings.model_validate(CscSettings(refine=2).model_dump()).refine == 2
