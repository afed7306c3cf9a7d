"""Supervision of a training: where features are looked at, what a step adds, what learns beside the network."""

import copy
from contextlib import nullcontext
from itertools import islice

import pytest
import torch
from planted_images import clone, cut, planted
from torch.nn import functional as F

from raypurify.attacks import FGSM, PGD
from raypurify.config import AttackSettings, RobustTrainingSettings
from raypurify.errors import ConfigError, TrainingError
from raypurify.nets import WideResNet
from raypurify.nets.bottleneck_resnet import BottleneckResNet
from raypurify.nets.cifar_resnet import CifarResNet
from raypurify.nets.cnn6 import CNN6
from raypurify.nets.places import features_at, head_of, places_of, widths_at
from raypurify.nets.vgg import VGG16
from raypurify.supervision import OF_CLASSES
from raypurify.training import kind_of, train_epochs
from raypurify.training.checkpoint import final_supervision
from raypurify.training.guard import Guard, guard_of
from raypurify.training.step import inner_attack
from raypurify.training.supervision import supervision_of

STEPS = 4
COMMON = {
    "epochs": 3,
    "batch_size": 32,
    "lr": 0.05,
    "precision": "float32",
    "augment": "none",
    "attack": {"steps": 1},
    "branch_dim": 8,
}


def settings_of(**more) -> RobustTrainingSettings:
    return RobustTrainingSettings(**COMMON | more)


def batches(epoch: int, first: int):
    return islice(cut(planted(STEPS * 32, seed=epoch), 32), first, None)


def new_network() -> WideResNet:
    torch.manual_seed(0)
    return WideResNet(10, 1, classes=2)


def trained(settings, resume=None, **more):
    network = new_network()
    kind = kind_of(settings, network=network, seed=1)
    told, states = [], []

    def on_epoch(epoch, metrics, state):
        told.append({name: value for name, value in metrics.items() if "second" not in name})
        states.append(clone(state()))

    train_epochs(
        network,
        batches,
        settings,
        STEPS,
        objective=kind.objective,
        supervision=kind.supervision,
        seed=3,
        resume=resume,
        on_epoch=on_epoch,
        **more,
    )
    return network.eval(), kind.supervision, told, states


def same(one, other) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(
    ("network", "features"),
    [
        (WideResNet(10, 2, 3), (32, 64, 128, 128)),
        (VGG16(3), (64, 128, 256, 512, 512, 512)),
        (CifarResNet(8, 3), (16, 32, 64, 64)),
        (BottleneckResNet(11, 3), (64, 128, 256, 1024)),
        (CNN6(3), (32, 64, 128, 512, 64)),
    ],
)
def test_features_are_those_of_the_pass_and_the_network_is_left_as_it_was(network, features):
    count = len(places_of(network).groups)
    wanted = [*(f"group{i}" for i in range(1, count + 1)), "latents"]
    assert tuple(widths_at(network.train(), wanted).values()) == features
    assert network.training
    images = torch.rand(2, 3, 32, 32)
    with features_at(network.eval(), wanted) as found:
        logits = network(images)
    torch.testing.assert_close(head_of(network)(found["latents"]), logits)
    torch.testing.assert_close(found["latents"], network.latents(images))
    kept = dict(found)
    network(torch.rand(2, 3, 32, 32))
    assert all(found[place] is kept[place] for place in wanted)


def test_places_that_a_network_has_not_are_refused():
    with pytest.raises(ConfigError, match="no group4: a WideResNet has groups 1 to 3"):
        supervision_of(settings_of(semantic="pcl", branches=[4]), network=new_network())
    with pytest.raises(ConfigError, match="knows no places in a Linear: train one of WideResNet, VGG16, CifarResNet"):
        supervision_of(settings_of(semantic="pcl"), network=torch.nn.Linear(2, 2))


@pytest.mark.parametrize("images", ["clean", "both", "attacked"])
def test_the_objective_is_cross_entropy_and_the_losses_of_the_latents_and_of_each_branch(images):
    """Equations 8 to 10: of the clean images, of the attacked ones, or of both as one batch."""
    settings = settings_of(semantic="pcl", branches=[1, 3], alpha=0.3, push=0.2, images=images)
    network, batch = new_network(), planted(12, seed=9)
    kind = kind_of(settings, network=network, seed=1)
    clean = batch.images / 255
    loss, figures = kind.objective(
        copy.deepcopy(network).train(), clean, batch, nullcontext, torch.Generator().manual_seed(4)
    )
    attack = PGD(eps=0.5, norm="l2", steps=1, step_size=0.625)
    attacked = attack(network.eval(), clean, batch.labels, generator=torch.Generator().manual_seed(4))
    seen = {"clean": clean, "attacked": attacked, "both": torch.cat([clean, attacked])}[images]
    labels = torch.cat([batch.labels] * (2 if images == "both" else 1))
    x = network.train().features[:2]((seen - 0.5) / 0.25)
    first, third = x.mean((2, 3)), network.features[2:4](x).mean((2, 3))
    latents = network.features[4:](network.features[2:4](x)).mean((2, 3))
    held = kind.supervision
    expected = F.cross_entropy(network.head(latents), labels) + 0.3 * held.losses["latents"](latents, labels).mean()
    for place, pooled in (("group1", first), ("group3", third)):
        branch = held.branches[place]
        f = branch.embed(pooled)
        expected = expected + F.cross_entropy(branch.classify(f), labels)
        expected = expected + 0.3 * held.losses[place](f, labels).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert set(figures) == {"accuracy", "pcl", "pcl_group1", "loss_group1", "pcl_group3", "loss_group3"}


def test_a_branch_may_have_the_features_that_it_finds():
    """Table 1: a global average pool, and the loss on what it gives."""
    settings = settings_of(semantic="pcl", branches=[1, 3], branch_dim=[0, 8])
    held = supervision_of(settings, network=new_network(), seed=1)
    pooled = torch.rand(4, 16)
    features, logits = held.branches["group1"](pooled)
    assert features is pooled
    assert (logits.shape, held.losses["group1"].centres.shape) == ((4, 2), (2, 16))
    assert held.branches["group3"].embed.out_features == held.losses["group3"].centres.shape[1] == 8
    with pytest.raises(ValueError, match=r"branch_dim is \[0\] for branches \[1, 3\]: give one of each, or one"):
        settings_of(semantic="pcl", branches=[1, 3], branch_dim=[0])


def test_branches_alone_are_deep_supervision_by_cross_entropy():
    network, held, told, _ = trained(settings_of(semantic="none", branches=[2], epochs=2))
    assert set(told[0]) == {"loss", "accuracy", "loss_group2"}
    assert told[1]["loss_group2"] < told[0]["loss_group2"]
    assert not held.centres
    assert set(network.state_dict()) == set(new_network().state_dict())


@pytest.mark.parametrize("semantic", OF_CLASSES)
def test_a_semantic_loss_gathers_the_latents_of_a_class(semantic):
    """On clean images: the spread within classes over that between their means, with the loss and without."""
    held_out = planted(100, seed=77)

    def spread(**more):
        network, _, told, _ = trained(settings_of(images="clean", **more))
        with torch.no_grad():
            latents = network.latents(held_out.images / 255)
        means = torch.stack([latents[held_out.labels == y].mean(0) for y in (0, 1)])
        return float((latents - means[held_out.labels]).norm(dim=1).mean() / (means[0] - means[1]).norm()), told

    plain, _ = spread(semantic="none")
    held, told = spread(semantic=semantic, alpha=0.3, push=0.1, margin=4.0)
    assert told[-1][semantic] < told[0][semantic]
    assert held < 0.8 * plain


@pytest.mark.parametrize("semantic", ["pcl", "center"])
def test_a_resumed_run_is_the_uninterrupted_one_with_centres_and_branches(semantic):
    settings = settings_of(
        semantic=semantic, branches=[2], images="both", eps_from=0.1, warm_up=1, epochs=3, ema=0.5, checkpoint_steps=2
    )
    places, held = [], []

    def hold(state):
        held.append(clone(state()))
        places.append((held[-1]["epochs"], held[-1]["within"]["step"]))

    network, supervision, told, states = trained(settings, on_checkpoint=hold)
    assert places == [(0, 2), (1, 2), (2, 2)]
    for checkpoint in (states[0], states[1], held[1]):
        again, supervised, rest, _ = trained(settings, resume=clone(checkpoint))
        assert rest == told[checkpoint["epochs"] :]
        assert same(network, again)
        assert same(supervision, supervised)


def test_a_checkpoint_of_other_centres_or_without_any_is_refused():
    settings = settings_of(semantic="pcl", epochs=1)
    checkpoint = trained(settings)[3][0]
    for resume in (checkpoint | {"supervision": {}}, {k: v for k, v in checkpoint.items() if k != "centres"}):
        with pytest.raises(TrainingError, match="does not fit"):
            trained(settings, resume=clone(resume))


def test_warm_up_is_cross_entropy_on_clean_images_that_leaves_centres_and_branches_alone():
    settings = settings_of(semantic="pcl", branches=[2], warm_up=1, epochs=2)
    drawn = supervision_of(settings, network=new_network(), seed=1).state_dict()
    _, supervision, told, states = trained(settings)
    plain = trained(settings_of(semantic="none", alpha=0, images="clean", epochs=2))[3]
    assert set(told[0]) == {"loss", "accuracy"}
    assert all(torch.equal(value, drawn[name]) for name, value in states[0]["supervision"].items())
    assert not any(torch.equal(value, drawn[name]) for name, value in supervision.state_dict().items())
    first, other = (one[0]["network"] for one in (states, plain))
    assert all(torch.equal(value, other[name]) for name, value in first.items())


def test_the_guard_does_not_watch_the_warm_up_nor_a_training_on_clean_images():
    falling = iter([0.9, 0.05, 0.04])
    _, _, told, _ = trained(
        settings_of(semantic="pcl", warm_up=1),
        guard=Guard(),
        validate=lambda network: {"validation_accuracy": 0.9, "validation_pgd_accuracy": next(falling)},
    )
    assert [name for line in told for name in line if name == "note"] == []
    assert guard_of(settings_of(images="clean")) is None
    assert guard_of(settings_of()).stops


@pytest.mark.parametrize(("keep", "accuracies"), [("best", [0.4, 0.6, 0.5]), ("last", [0.4, 0.6, 0.1])])
def test_centres_and_branches_are_those_of_the_network_that_is_kept(keep, accuracies):
    """Of the second epoch: because it is the best, or because the guard stops in the third."""
    settings = settings_of(semantic="pcl", branches=[2], keep=keep)

    def run(after, resume=None):
        under_attack = iter(accuracies[after:])
        return trained(
            settings,
            resume,
            guard=guard_of(settings),
            validate=lambda network: {"validation_accuracy": 0.7, "validation_pgd_accuracy": next(under_attack)},
        )

    network, held, told, states = run(0)
    assert len(told) == 3
    assert ("note" in told[-1]) == (keep == "last")
    second, last = states[1]["supervision"], states[2]["supervision"]
    assert not any(torch.equal(value, last[name]) for name, value in second.items())
    again, held_again, _, more = run(2, resume=states[1])
    for kept, beside, checkpoint in ((network, held, states[-1]), (again, held_again, more[-1])):
        assert all(torch.equal(value, kept.state_dict()[name]) for name, value in states[1]["network"].items())
        for found in (beside.state_dict(), final_supervision(checkpoint)):
            assert all(torch.equal(value, found[name]) for name, value in second.items())


def test_centres_step_at_their_own_rate_whatever_alpha_is():
    """The first step of the same network, at two weights."""

    def stepped(alpha):
        settings = settings_of(semantic="pcl", alpha=alpha, epochs=1, images="clean")
        network = new_network()
        kind = kind_of(settings, network=network, seed=1)
        before = kind.supervision.centres[0].detach().clone()
        train_epochs(
            network,
            lambda epoch, first: cut(planted(32), 32),
            settings,
            1,
            objective=kind.objective,
            supervision=kind.supervision,
            on_epoch=lambda *_: None,
        )
        return kind.supervision.centres[0].detach() - before

    torch.testing.assert_close(stepped(0.01), stepped(1.0))


def test_equation_5_as_printed_runs_away_where_the_weighed_one_does_not():
    def largest(push):
        _, supervision, _, _ = trained(settings_of(semantic="pcl", images="clean", push=push))
        return float(supervision.centres[0].detach().abs().max())

    assert largest(1.0) > 100 * largest(1e-4)


def test_one_step_without_a_random_start_is_fgsm():
    network, batch = new_network().eval(), planted(8, seed=2)
    images = batch.images / 255
    for norm, eps in (("linf", 0.03), ("l2", 0.4)):
        attack = inner_attack(AttackSettings(norm=norm, eps=eps, steps=1, random_start=False))
        expected = FGSM(eps=eps, norm=norm)(network, images, batch.labels)
        torch.testing.assert_close(attack(network, images, batch.labels), expected)


def test_sizes_of_attacks_are_drawn_over_their_range():
    settings = settings_of(eps_from=0.01, alpha=0, attack={"norm": "linf", "eps": 0.05, "steps": 1})
    attack = kind_of(settings).objective.args[0].attack
    network, batch = new_network().eval(), planted(4, seed=2)
    # Away from the ends of the range of an image.
    images, generator = batch.images / 255 * 0.5 + 0.25, torch.Generator().manual_seed(0)
    sizes = [
        float((attack(network, images, batch.labels, generator=generator) - images).abs().max()) for _ in range(40)
    ]
    assert 0.01 <= min(sizes) < 0.02
    assert 0.04 < max(sizes) <= 0.05 + 1e-6
