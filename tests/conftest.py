"""Fixtures shared by all rooms: the real data, and a Ray that every test of a session shares."""

import importlib.util
import os
from pathlib import Path

import object_store
import prometheus
import pytest

from raypurify.serve.hops import GRPC

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers know what was set when Ray was started, which any test may do.
os.environ |= {"AWS_ACCESS_KEY_ID": object_store.KEY, "AWS_SECRET_ACCESS_KEY": object_store.SECRET}
os.environ.pop("AWS_SESSION_TOKEN", None)
# As ``raypurify serve`` starts a Ray of its own; the one of these tests is there before it.
os.environ |= GRPC

# How often Ray Train looks at its workers: trainings of seconds wait for it at their end.
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"

REPOSITORY = Path(__file__).resolve().parents[1]
# Rooms whose tests start Ray: the first are the longest.
LONG = ("fit", *(f"tests/{room}" for room in ("serve", "hosts", "bulk", "cli", "fit", "evaluation", "test_examples")))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Files that share the complete fit, of two minutes, are run by one process, as are those that share the endpoint,
    without others between them, before which it would end; and each other file."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            text = (REPOSITORY / file).read_text()
            if "small_run" in text or "small_stl_run" in text:
                return "fit"
            return "tests/serve" if file.startswith("tests/serve/") else file

        def _assign_work_unit(self, node):
            # What takes long comes first, or one process would wait at the end for the other.
            order = [next((n for n, long in enumerate(LONG) if s.startswith(long)), len(LONG)) for s in self.workqueue]
            self.workqueue.move_to_end([*self.workqueue][order.index(min(order))], last=False)
            super()._assign_work_unit(node)

    return Scheduling(config, log)


@pytest.fixture
def benchmark(monkeypatch):
    """Loads a script of ``benchmarks`` as a module."""

    def load(name: str):
        monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", REPOSITORY / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def photographs():
    """Three of the example photographs as a tensor (3, 3, 32, 32) in [0, 1]."""
    import torch

    from raypurify.images import decode_image

    paths = sorted((REPOSITORY / "examples/cifar10/clean").glob("*.png"))[:3]
    pixels = [torch.from_numpy(decode_image(path.read_bytes()).pixels) for path in paths]
    return torch.stack(pixels).permute(0, 3, 1, 2).contiguous() / 255


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real images and pretrained classifiers; set RAYPURIFY_DATA to point elsewhere."""
    folder = Path(os.environ.get("RAYPURIFY_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "cifar10" / "train-0.parquet").exists():
        pytest.skip("no real data: set RAYPURIFY_DATA to a folder with cifar10/train-0.parquet")
    return folder


@pytest.fixture(scope="session")
def data_file(data_dir):
    """Path of one file of the real data; where a copy of the data lacks it, the test is skipped by that name."""

    def find(name: str) -> Path:
        if not (data_dir / name).exists():
            pytest.skip(f"the real data in {data_dir} lack {name}")
        return data_dir / name

    return find


@pytest.fixture(scope="session")
def cifar_images(data_file):
    """The first images (n, 3, 32, 32) in [0, 1] of a CIFAR-10 file, and their labels (n,)."""

    def read(name: str, count: int):
        import numpy as np
        import pyarrow.parquet as pq
        import torch

        from raypurify.images import decode_image, to_float

        rows = pq.read_table(data_file(f"cifar10/{name}"), columns=["image", "label"])[:count]
        images = np.stack([to_float(decode_image(data).pixels) for data in rows["image"].to_pylist()])
        return torch.from_numpy(images), torch.tensor(rows["label"].to_pylist())

    return read


@pytest.fixture
def cifar_pictures(cifar_images):
    """Sets of CIFAR-10's training images: ``count`` to train on, and four others."""
    import numpy as np

    from raypurify.training.data import ImageSet

    def sets(count: int):
        images, labels = cifar_images("train-0.parquet", count + 4)
        whole = ImageSet(np.arange(count + 4), labels.numpy(), (images * 255).round().byte().numpy())
        return whole.take(np.arange(count)), whole.take(np.arange(count, count + 4))

    return sets


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """One object store for every test that needs it; each uses folders of its own."""
    with object_store.running(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="session")
def local_ray():
    """One local Ray for every test that needs it."""
    from raypurify.runtime.session import ray_session

    with ray_session(num_cpus=4):
        yield


@pytest.fixture(scope="session")
def small_set(tmp_path_factory) -> Path:
    """A folder of 3 classes × 48 images, 20×20, told apart by their stripes, with one broken file among them."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("small-set")
    rng = np.random.default_rng(0)
    for c, name in enumerate(("across", "down", "slanted")):
        (folder / name).mkdir()
        for i in range(48):
            y, x = np.mgrid[:20, :20]
            phase = rng.uniform(0, 6.3)
            wave = np.sin((y, x, x + y)[c] * 1.1 + phase)[..., None] * rng.uniform(30, 70, 3)
            pixels = 128 + wave + rng.normal(0, 12, (20, 20, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i:03d}.png")
    (folder / "down" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return folder


@pytest.fixture(scope="session")
def small_settings():
    """Settings of a fit that takes seconds: every stage is real, nothing in it is any good."""
    from raypurify.config import Settings

    robust = {"batch_size": 32, "lr": 0.02, "precision": "float32", "attack": {"steps": 1}}
    return Settings.model_validate(
        {
            "name": "small",
            "data": {"image_size": 16, "validation": 24},
            "network": {"depth": 10, "width": 1},
            "baseline": {"epochs": 3, "batch_size": 32, "lr": 0.05, "precision": "float32"},
            "clusters": {"k_max": 3},
            # One learner: starting another takes longer than what it would do.
            "dictionaries": {"atoms": 6, "size": 5, "images": 4, "image_size": 20, "actors": 1},
            "robust_first": {"epochs": 1, "workers": 1, **robust},
            "robust": {"epochs": 1, "init": "first", "loss": "trades", **robust},
            "calibration": {"images": 12, "attack": {"steps": 2}},
        }
    )


@pytest.fixture(scope="session")
def small_samples(local_ray):
    """What Ray has exported of stages and jobs since the complete fit began: it grows."""
    with prometheus.collecting("ray_raypurify_") as samples:
        yield samples


@pytest.fixture(scope="session")
def small_run(local_ray, small_set, small_settings, small_samples, tmp_path_factory) -> Path:
    """The run directory of a complete fit."""
    from raypurify.fit.run import fit

    run_dir = tmp_path_factory.mktemp("small-run")
    fit([str(small_set)], small_settings, run_dir)
    return run_dir


@pytest.fixture(scope="session")
def tiny_bundle(small_run) -> Path:
    """A bundle that ``fit`` made of the small set: 3 classes, 5×5 atoms."""
    return small_run / "bundle"


@pytest.fixture(scope="session")
def small_stl_settings():
    """As ``small_settings``, of the method stl."""
    from raypurify.config import Settings

    return Settings.model_validate(
        {
            "method": "stl",
            "name": "small-stl",
            "data": {"image_size": 16, "validation": 24},
            "dae": {"width": 4, "epochs": 2, "batch_size": 32, "precision": "float32", "workers": 1},
            "strata": {"count": 3, "components": 8, "neighbours": 3, "keep": 60, "n_init": 2},
            "dictionaries": {"atoms": 6, "size": 5, "images": 4, "image_size": 20, "actors": 1},
            "calibration": {"images": 12},
        }
    )


@pytest.fixture(scope="session")
def small_stl_run(local_ray, small_set, small_stl_settings, tmp_path_factory) -> Path:
    """The run directory of a complete fit of the method stl."""
    from raypurify.fit.run import fit

    run_dir = tmp_path_factory.mktemp("small-stl-run")
    fit([str(small_set)], small_stl_settings, run_dir)
    return run_dir


@pytest.fixture(scope="session")
def small_region_settings():
    """As ``small_settings``, of the method region_sparse."""
    from raypurify.config import Settings

    return Settings.model_validate(
        {
            "method": "region_sparse",
            "name": "small-region",
            "data": {"image_size": 16, "validation": 24},
            "patches": {"size": 5, "atoms": 12, "images": 20, "per_image": 15},
            "region": {"nonzeros": 3, "stride": 2},
            "calibration": {"images": 12},
        }
    )


@pytest.fixture(scope="session")
def small_front_settings():
    """As ``small_settings``, of the method front_end."""
    from raypurify.config import Settings

    return Settings.model_validate(
        {
            "method": "front_end",
            "name": "small-front",
            "data": {"image_size": 16, "validation": 24},
            "dictionary": {"atoms": 30, "images": 20, "per_image": 15},
            "encoder": {"top": 10, "dropout": 0.5},
            "decoder": {
                "channels": [8, 4],
                "depth": 8,
                "epochs": 2,
                "batch_size": 32,
                "precision": "float32",
                "workers": 1,
            },
            "calibration": {"images": 12},
        }
    )
