"""The actor that learns dictionaries: from the files of a sample to one committed file a call."""

import torch
from safetensors.torch import save

from raypurify.config import CscSettings, DictionarySettings
from raypurify.csc import learn_dictionary, tikhonov_split
from raypurify.fit.samples import read_sample
from raypurify.storage import Place


class Learner:
    """Learns on one thread, on ``device``, from the samples in ``copies`` of images 3 × ``side`` × ``side``."""

    def __init__(
        self,
        folder: Place,
        copies: list[Place],
        side: int,
        csc: CscSettings,
        settings: DictionarySettings,
        seed: int,
        device: str,
    ):
        torch.set_num_threads(1)
        self.folder, self.copies, self.side, self.device = folder, copies, side, device
        self.csc, self.settings, self.seed = csc, settings, seed

    def learn(self, name: str, number: int) -> None:
        """Write the dictionary ``name`` of the sample ``number``: "atoms" (M, 3, h, w) float32, nothing where no image
        varies."""
        pixels = torch.from_numpy(read_sample(self.copies, number, self.side).copy())
        tensors = {}
        # Asked of the pixels: the high part of a constant image can hold rounding errors, which would be learned.
        if (pixels != pixels[:, :, :1, :1]).any():
            images = pixels.to(self.device).float() / 255
            _, high = tikhonov_split(images, lmbda=self.csc.tikhonov, pad=self.csc.pad)
            atoms = learn_dictionary(
                high,
                atoms=self.settings.atoms,
                size=self.settings.size,
                lmbda=self.csc.lmbda,
                passes=self.settings.passes,
                seed=self.seed,
                engine=self.settings.engine,
            )
            tensors["atoms"] = atoms.contiguous()
        dictionary_path(self.folder, name).write(save(tensors))


def dictionary_path(folder: Place, name: str) -> Place:
    """The file of a cluster's dictionary, by the cluster's number, or of the global one.

    >>> dictionary_path(Place("d"), "7").name, dictionary_path(Place("d"), "global").name
    ('00007.safetensors', 'global.safetensors')
    """
    return folder / f"{name:0>5}.safetensors"
