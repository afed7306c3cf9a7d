"""Contract of every attack in the registry, on a real network and real images."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from raypurify.attacks import ATTACKS, BIM, CW, FGSM, MIM, NORMS, PGD, TPGD, Attack, DeepFool
from raypurify.attacks.budget import size
from raypurify.attacks.losses import LOSSES
from raypurify.attacks.success import fooled
from raypurify.errors import ConfigError, DataError
from raypurify.nets.cifar_resnet import CifarResNet, load_cifar_resnet

EPS = {"linf": 4 / 255, "l2": 0.5, "dissimilarity": 0.02, "flow": 1.0}
# A budget that is not one of NORMS, and how many of its units serve for one of L∞.
OTHER_NORMS = {"stadv": ("flow",)}
UNITS = {"stadv": 30}
every_attack = pytest.mark.parametrize("name", ATTACKS)
every_norm = pytest.mark.parametrize("norm", NORMS)
every_attack_and_norm = pytest.mark.parametrize(
    ("name", "norm"), [(name, norm) for name in ATTACKS for norm in OTHER_NORMS.get(name, NORMS)]
)

# CW's own settings take 900 passes, Square's 1000, AutoAttack's 10,000.
SETTINGS = {
    "cw": {"searches": 3, "steps": 20, "step_size": 0.03, "initial_const": 0.1},
    "deepfool": {"classes": 4},
    "uap": {"steps": 20},
    "square": {"queries": 60},
    "autoattack": {"attacks": ("apgd-ce",)},
    "apgd": {"steps": 20},
    "low-frequency": {"steps": 15},
    "stadv": {"steps": 40},
}
IMAGES = {"cw": 16, "stadv": 16, "square": 16, "uap": 16, "autoattack": 4}
# One pattern for all images, one found without gradients and one of few frequencies need more room.
TIMES = {"uap": 3, "square": 3, "low-frequency": 3}
# These stop where two classes meet; there the loss is log 2 or a little more.
RAISED_BY = {"cw": 0.4, "deepfool": 0.4, "square": 0.4, "autoattack": 0.4, "apgd": 0.4, "stadv": 0.4}
# What else makes it use its whole budget; AutoAttack leaves that to chance, and a flow is seen in the images alone.
FILLED = {"cw": {"confidence": 20, "fill": True}, "deepfool": {"fill": True}}
NOT_FILLING = {"autoattack", *OTHER_NORMS}
WITHOUT_LOSS = {"deepfool", "autoattack"}
# Drawn for the batch, or made for it.
SHARED = {"tpgd", "uap", "autoattack", "apgd"}
FIXED_START = {"pgd": {"random_start": False}, "low-frequency": {"random_start": False}}


def make(name: str, eps: float, **settings) -> Attack:
    if name in OTHER_NORMS and settings.get("norm") in NORMS:
        del settings["norm"]
    if "norm" not in settings:
        eps *= UNITS.get(name, 1)
    return ATTACKS[name](eps=eps, **SETTINGS.get(name, {}), **settings)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@every_attack_and_norm
def test_stays_in_its_ball_and_in_range_and_raises_the_loss(name, norm, victim, batch):
    count, eps = IMAGES.get(name), TIMES.get(name, 1) * EPS[norm]
    images, labels = batch[0][:count], batch[1][:count]
    before = images.clone()
    adversarial = make(name, eps=eps, norm=norm)(victim, images, labels, generator=generator())
    assert torch.equal(images, before)
    assert adversarial.shape == images.shape
    assert adversarial.dtype == images.dtype
    assert not adversarial.requires_grad
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    if norm in NORMS:
        assert (size(adversarial - images, images, norm) <= eps * (1 + 1e-5) + 1e-7).all()
    with torch.no_grad():
        clean_loss = cross_entropy(victim(images), labels)
        loss = cross_entropy(victim(adversarial), labels)
        correct = (victim(adversarial).argmax(1) == labels).float().mean()
    assert loss > clean_loss + RAISED_BY.get(name, 1)
    assert correct < 0.6


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - NOT_FILLING))
@every_norm
def test_what_fills_its_budget_does_and_no_more(name, norm, victim, batch):
    images, labels, eps = batch[0][:6], batch[1][:6], EPS[norm]
    assert (victim(images).argmax(1) == labels).all()
    adversarial = make(name, eps=eps, norm=norm, **FILLED.get(name, {}))(victim, images, labels, generator=generator())
    sizes = size(adversarial - images, images, norm)
    assert (sizes <= eps * (1 + 1e-5) + 1e-7).all()
    assert sizes.mean() >= 0.95 * eps
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1


@pytest.mark.parametrize("minimal", [CW, DeepFool])
def test_what_fills_its_budget_has_one(minimal):
    with pytest.raises(ConfigError, match="finite"):
        minimal(eps=math.inf, fill=True)


@every_attack_and_norm
def test_deterministic_for_a_generator(name, norm, toy):
    network, images, labels = toy
    attack = make(name, eps=EPS[norm], norm=norm)
    first = attack(network, images, labels, generator=generator(3))
    torch.manual_seed(99)
    assert torch.equal(first, attack(network, images, labels, generator=generator(3)))


@every_attack
def test_images_may_have_any_strides(name, toy):
    # Those of a grid are transposed from decoded ones.
    network, images, labels = toy
    attack = make(name, eps=0.03)
    expected = attack(network, images, labels, generator=generator())
    strided = images.to(memory_format=torch.channels_last)
    assert not strided.is_contiguous()
    torch.testing.assert_close(attack(network, strided, labels, generator=generator()), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"uap", "autoattack"}))
def test_an_image_does_not_depend_on_its_neighbours(name, toy):
    network, images, labels = toy
    attack = make(name, eps=0.1, norm="l2")
    together = attack(network, images, labels, generator=generator())
    others = torch.cat([images[:3], images[3:].flip(3)])
    among_others = attack(network, others, labels, generator=generator())
    torch.testing.assert_close(together[:3], among_others[:3], rtol=1e-5, atol=1e-6)
    assert not torch.equal(together[3:], among_others[3:])


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - SHARED))
def test_an_image_does_not_depend_on_how_many_neighbours_it_has(name, toy):
    network, images, labels = toy
    attack = make(name, eps=0.1, norm="l2", **FIXED_START.get(name, {}))
    together = attack(network, images, labels, generator=generator())
    alone = torch.cat(
        [attack(network, images[i : i + 1], labels[i : i + 1], generator=generator()) for i in range(len(images))]
    )
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@every_attack
def test_leaves_the_model_alone(name, toy):
    network, images, labels = toy
    parameters = list(network.parameters())
    kept = torch.full_like(parameters[0], 7.0)
    parameters[0].grad = kept.clone()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    make(name, eps=0.03)(network, images, labels)
    assert torch.equal(parameters[0].grad, kept)
    assert all(parameter.grad is None for parameter in parameters[1:])
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not network.training
    network.train()
    make(name, eps=0.03)(network, images, labels)
    assert network.training


@every_attack
def test_zero_budget_returns_the_images(name, toy):
    network, images, labels = toy
    assert torch.equal(make(name, eps=0.0)(network, images, labels), images)


@every_attack
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(name, context, toy):
    network, images, labels = toy
    expected = make(name, eps=0.03)(network, images, labels, generator=generator())
    with context():
        found = make(name, eps=0.03)(network, images.clone(), labels, generator=generator())
    assert torch.equal(expected, found)


@every_attack
def test_works_under_autocast_with_a_float32_perturbation(name, toy):
    network, images, labels = toy
    seen = []
    network[0].register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        adversarial = make(name, eps=0.03)(network, images, labels, generator=generator())
    assert set(seen) == {(torch.float32, torch.bfloat16)}
    assert adversarial.dtype == torch.float32
    if name in ("tpgd", "square"):
        # Beside the clean image rounding decides which way TPGD goes (test_tpgd.py has what it reaches), and which of
        # two squares is better.
        return
    plain = make(name, eps=0.03)(network, images, labels, generator=generator())
    assert (adversarial - plain).abs().mean() < 0.003


@every_attack
def test_training_in_the_same_autocast_context_keeps_its_gradients(name, toy):
    # Autocast remembers weights it has cast, and must not remember them from where gradients were off.
    network, images, labels = toy
    with torch.autocast("cpu", dtype=torch.bfloat16):
        adversarial = make(name, eps=0.03)(network, images, labels)
        cross_entropy(network(adversarial).float(), labels).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


@every_attack
def test_half_precision_images_come_back_in_their_dtype(name, toy):
    network, images, labels = toy
    adversarial = make(name, eps=0.03)(network.to(torch.bfloat16), images.to(torch.bfloat16), labels)
    assert adversarial.dtype == torch.bfloat16
    if name not in OTHER_NORMS:
        assert (adversarial.float() - images.to(torch.bfloat16).float()).abs().max() <= 0.03 + 2**-8


@every_attack
def test_a_custom_loss_is_what_is_raised(name, toy):
    network, images, _ = toy
    labels = network(images).argmax(1)

    def toward_class_two(logits, labels):
        return logits[:, 2]

    attack = make(name, eps=0.05, norm="linf")
    if name in WITHOUT_LOSS:
        # By which a threat model knows.
        assert attack.own_objective
        with pytest.raises(ConfigError, match="loss"):
            attack(network, images, labels, loss=toward_class_two)
        return
    adversarial = attack(network, images, labels, loss=toward_class_two, generator=generator())
    with torch.no_grad():
        raised = network(adversarial)[:, 2] - network(images)[:, 2]
        # BIM gets 0.15, Square the same with 1000 queries; few frequencies and no pixels but the image's own, less.
        enough = raised > {"square": 0.03, "low-frequency": 0.01, "stadv": 0.01}.get(name, 0.05)
        if name == "cw":
            # It is done when the class changes.
            enough |= (raised > 0) & (network(adversarial).argmax(1) != labels)
    assert enough.all()


@every_attack
def test_an_empty_batch_stays_empty(name, toy):
    network, images, labels = toy
    assert make(name, eps=0.03)(network, images[:0], labels[:0]).shape == (0, 3, 8, 8)


@every_attack
def test_bad_input_is_named(name, toy):
    network, images, labels = toy
    attack = make(name, eps=0.03)
    with pytest.raises(DataError, match=r"span \[0, 255\]"):
        attack(network, torch.tensor([0.0, 255.0]).expand(1, 3, 8, 2), labels[:1])
    with pytest.raises(DataError, match="nan"):
        attack(network, images * torch.nan, labels)
    with pytest.raises(DataError, match="uint8"):
        attack(network, (images * 255).byte(), labels)
    with pytest.raises(DataError, match=r"labels have shape \(5,\)"):
        attack(network, images, labels[:5])
    with pytest.raises(ConfigError, match="'l0'"):
        make(name, eps=0.1, norm="l0")
    with pytest.raises(ConfigError, match=r"eps=-1"):
        ATTACKS[name](eps=-1)


@pytest.mark.parametrize("iterative", [PGD, BIM, MIM, TPGD])
def test_iterative_settings_are_checked(iterative):
    with pytest.raises(ConfigError, match="step_size=nan"):
        iterative(eps=0.1, step_size=float("nan"))
    with pytest.raises(ConfigError, match="momentum=-1"):
        iterative(eps=0.1, momentum=-1)


def test_fgsm_is_the_sign_of_the_input_gradient(toy):
    network, images, labels = toy
    inputs = images.clone().requires_grad_()
    cross_entropy(network(inputs), labels).backward()
    expected = (images + 0.02 * inputs.grad.sign()).clamp(0, 1)
    torch.testing.assert_close(FGSM(eps=0.02)(network, images, labels), expected, rtol=0, atol=1e-7)


def test_bim_follows_kurakins_recursion(toy):
    network, images, labels = toy
    expected, eps, steps = images.clone(), 0.02, 4
    for _ in range(steps):
        inputs = expected.clone().requires_grad_()
        cross_entropy(network(inputs), labels).backward()
        expected = expected + 1.25 * eps / steps * inputs.grad.sign()
        expected = expected.clamp(images - eps, images + eps).clamp(0, 1)
    attack = BIM(eps=eps, steps=steps, step_size=1.25 * eps / steps)
    torch.testing.assert_close(attack(network, images, labels), expected, rtol=0, atol=1e-6)


def test_pgd_without_random_start_is_bim_with_the_same_step(toy):
    network, images, labels = toy
    pgd = PGD(eps=0.5, norm="l2", steps=5, step_size=0.2, random_start=False)(network, images, labels)
    assert torch.equal(pgd, BIM(eps=0.5, norm="l2", steps=5, step_size=0.2)(network, images, labels))


def test_restarts_and_losses_are_checked():
    with pytest.raises(ConfigError, match="restarts=2 are all the same"):
        BIM(eps=0.1, restarts=2)
    with pytest.raises(ConfigError, match="loss='mse': choose one of ce, margin, dlr"):
        PGD(eps=0.1, loss="mse")
    with pytest.raises(ConfigError, match="TPGD raises its own divergence"):
        TPGD(eps=0.1, loss="margin")


@pytest.mark.parametrize("loss", ["margin", "dlr"])
def test_a_named_loss_is_the_one_of_that_name(loss, toy):
    network, images, labels = toy
    named = PGD(eps=0.03, loss=loss)(network, images, labels, generator=generator())
    assert torch.equal(named, PGD(eps=0.03)(network, images, labels, generator=generator(), loss=LOSSES[loss]))
    assert not torch.equal(named, PGD(eps=0.03)(network, images, labels, generator=generator()))


def test_each_image_keeps_the_best_of_its_restarts_and_the_fooled_pay_for_no_more(victim, batch):
    images, labels = batch[0][:32], batch[1][:32]
    asked = []

    def watched(x):
        asked.append(len(x))
        return victim(x)

    settings = {"eps": 1.2 / 255, "steps": 3}
    once = PGD(**settings)(victim, images, labels, generator=generator())
    often = PGD(**settings, restarts=4)(watched, images, labels, generator=generator())
    before, after = fooled(victim, once, labels, once.dtype), fooled(victim, often, labels, once.dtype)
    # Also where rounding to 8 bits, which is what both are told by, leaves the loss to decide.
    assert (after | ~before).all()
    assert torch.equal(often[before], once[before])
    withstood = ~after
    with torch.no_grad():
        losses = [cross_entropy(victim(x), labels, reduction="none")[withstood] for x in (once, often)]
    assert (losses[1] >= losses[0] - 1e-5).all()
    assert (losses[1] > losses[0] + 1e-4).any()
    assert asked == sorted(asked, reverse=True)
    assert asked[-1] < len(images)


@pytest.mark.parametrize("steps", [2, 30])
@pytest.mark.parametrize("iterative", [PGD, BIM, MIM, TPGD])
def test_the_default_step_uses_the_whole_budget_however_large_and_in_how_many_steps(iterative, steps, victim, batch):
    images, labels, eps = batch[0][:4], batch[1][:4], 0.08
    attack = iterative(eps=eps, norm="dissimilarity", steps=steps)
    adversarial = attack(victim, images, labels, generator=generator())
    assert size(adversarial - images, images, "dissimilarity").mean() > 0.95 * eps


def test_pgd_random_start_depends_on_the_generator(toy):
    network, images, labels = toy
    attack = PGD(eps=0.1, steps=1, step_size=0.01)
    first = attack(network, images, labels, generator=generator(1))
    assert not torch.equal(first, attack(network, images, labels, generator=generator(2)))


def test_bim_at_four_percent_dissimilarity_breaks_the_deepest_classifier(data_file, batch):
    network, (images, labels) = load_cifar_resnet(data_file("cifar10-resnet/resnet56-4bfd9763.th")), batch
    adversarial = BIM(eps=0.04, norm="dissimilarity", steps=10)(network, images[:16], labels[:16])
    assert (network(adversarial).argmax(1) == labels[:16]).float().mean() <= 1 / 16


def test_attack_needs_no_parameter_gradient(toy):
    # Frozen and trainable networks give the same result.
    network, images, labels = toy
    trainable = PGD(eps=0.03)(network, images, labels, generator=generator())
    frozen = PGD(eps=0.03)(network.requires_grad_(False), images, labels, generator=generator())
    torch.testing.assert_close(trainable, frozen, rtol=0, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"autoattack", *OTHER_NORMS}))
@every_norm
def test_the_gpu_agrees_with_the_cpu(name, norm):
    torch.manual_seed(0)
    network = CifarResNet(20).eval().double()
    images, labels = torch.rand(4, 3, 32, 32, dtype=torch.double), torch.arange(4)
    attack = make(name, eps=EPS[norm], norm=norm)
    on_cpu = attack(network, images, labels, generator=generator())
    on_gpu = attack(network.cuda(), images.cuda(), labels.cuda(), generator=generator()).cpu()
    assert (on_gpu - on_cpu).abs().mean() < 1e-4
