"""Two workers under DistributedDataParallel, on the CPU and without Ray."""

import copy
from contextlib import nullcontext
from functools import partial

import torch
from planted_images import cut, planted
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from raypurify.attacks import PGD
from raypurify.config import RobustTrainingSettings
from raypurify.nets import WideResNet
from raypurify.training import Semantic, epoch_order, robust, train_epochs, validate
from raypurify.training.guard import Guard
from raypurify.training.loop import centres_optimizer
from raypurify.training.semantic import Center, PrototypeConformity
from raypurify.training.supervision import Branch, Supervision, supervision_of

SETTINGS = RobustTrainingSettings(
    epochs=2,
    batch_size=32,
    lr=0.05,
    precision="float32",
    ema=0.5,
    loss="trades",
    semantic="center",
    branches=(2,),
    branch_dim=8,
    warm_up=1,
)
WORKERS = 2


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=WORKERS)
    torch.manual_seed(0)
    network = WideResNet(10, 1, 2)
    objective = partial(robust, Semantic(PGD(eps=0.5, norm="l2", steps=1), None, 0.0, "trades"))
    batch, held_out = planted(128, seed=1), planted(50, seed=2)

    # The gradient of TRADES, whose two passes share their weights, is the mean over the workers.
    one = next(cut(batch, 16, torch.from_numpy(epoch_order(128, 0, 0, rank, WORKERS))))

    def gradient(model):
        loss, _ = objective(model.train(), one.images / 255, one, nullcontext, torch.Generator().manual_seed(0))
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    mean = gradient(copy.deepcopy(network))
    distributed.all_reduce(mean)
    torch.testing.assert_close(gradient(DistributedDataParallel(copy.deepcopy(network))), mean / WORKERS)

    supervised_together(rank)

    told, supervision = [], supervision_of(SETTINGS, network=network)
    before = copy.deepcopy(supervision.state_dict())
    objective = partial(robust, Semantic(objective.args[0].attack, supervision, SETTINGS.alpha, "trades"))
    train_epochs(
        DistributedDataParallel(network),
        lambda epoch, first: cut(batch, 16, torch.from_numpy(epoch_order(128, epoch, 0, rank, WORKERS))),
        SETTINGS,
        4,
        objective=objective,
        validate=lambda kept: validate(
            kept, cut(held_out, 10, torch.arange(rank, 50, WORKERS)), PGD(eps=0.5, norm="l2"), together=True
        ),
        guard=Guard(),
        supervision=supervision,
        seed=rank,
        on_epoch=lambda epoch, metrics, state: told.append(metrics),
    )
    assert not any(torch.equal(value, before[name]) for name, value in supervision.state_dict().items())
    torch.save((network.state_dict(), told, supervision.state_dict()), f"{folder}/{rank}.pt")
    if rank == 0:
        alone = validate(network, cut(held_out, 10))
        assert alone["validation_accuracy"] == told[-1]["validation_accuracy"]
    distributed.barrier()
    distributed.destroy_process_group()


def supervised_together(rank: int) -> None:
    """Centres and branches that the workers learn from a half of the features each are those of one with all."""
    torch.manual_seed(1)
    features, labels = torch.randn(12, 6), torch.tensor([0, 1, 1, 0, 2, 1] * 2)
    losses = {"latents": PrototypeConformity(4, 6, 0.1), "group1": Center(4, 5)}
    alone = Supervision(losses, {"group1": Branch(6, 5, 4)})
    for held, part in ((alone, slice(None)), (copy.deepcopy(alone), slice(rank, None, WORKERS))):
        for _ in range(3):
            values, entropies, _ = held({"latents": features[part], "group1": features[part]}, labels[part])
            branches, centres = torch.optim.SGD(held.branches.parameters(), 0.1), centres_optimizer(held, SETTINGS)
            held.zero_grad()
            (SETTINGS.alpha * values.mean() + entropies.mean()).backward()
            held.settle(together=held is not alone)
            branches.step()
            centres.step()
    for one, other in zip(held.parameters(), alone.parameters()):
        torch.testing.assert_close(one, other)


def test_workers_agree_on_the_network_and_on_its_figures(tmp_path):
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=WORKERS)
    (weights, told, held), (others, told_others, held_by_others) = (
        torch.load(tmp_path / f"{rank}.pt") for rank in range(WORKERS)
    )
    parameters = dict(WideResNet(10, 1, 2).named_parameters())
    assert all(torch.equal(weights[name], others[name]) for name in parameters)
    assert list(held) == list(held_by_others)
    assert all(torch.equal(value, held_by_others[name]) for name, value in held.items())
    for one, other in zip(told, told_others):
        shared = [key for key in one if key.startswith("validation_")]
        assert len(shared) == 2
        assert [one[key] for key in shared] == [other[key] for key in shared]
