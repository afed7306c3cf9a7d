"""Two workers under DistributedDataParallel, on the CPU and without Ray."""

import copy
from contextlib import nullcontext
from functools import partial

import torch
from planted_images import cut, planted
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from raypurify.attacks import PGD
from raypurify.config import TrainingSettings
from raypurify.nets import WideResNet
from raypurify.training import Semantic, epoch_order, robust, train_epochs, validate
from raypurify.training.guard import Guard

SETTINGS = TrainingSettings(epochs=2, batch_size=32, lr=0.05, precision="float32", ema=0.5)
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

    told = []
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
        seed=rank,
        on_epoch=lambda epoch, metrics, state: told.append(metrics),
    )
    torch.save((network.state_dict(), told), f"{folder}/{rank}.pt")
    if rank == 0:
        alone = validate(network, cut(held_out, 10))
        assert alone["validation_accuracy"] == told[-1]["validation_accuracy"]
    distributed.barrier()
    distributed.destroy_process_group()


def test_workers_agree_on_the_network_and_on_its_figures(tmp_path):
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=WORKERS)
    (weights, told), (others, told_others) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(WORKERS))
    parameters = dict(WideResNet(10, 1, 2).named_parameters())
    assert all(torch.equal(weights[name], others[name]) for name in parameters)
    for one, other in zip(told, told_others):
        shared = [key for key in one if key.startswith("validation_")]
        assert len(shared) == 2
        assert [one[key] for key in shared] == [other[key] for key in shared]
