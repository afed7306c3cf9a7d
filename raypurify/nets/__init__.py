"""Networks: those that raypurify trains, and pretrained target classifiers to attack and defend.

Every classifier takes images (N, 3, H, W) in [0, 1], standardises and resizes them inside, and gives logits (N,
classes): so attacks and purifiers are the same for all. An ``Encoder`` gives the latents that clusters are made of: the
WideResNet of RSFP, the denoising auto-encoder of STL (``dae``). ``reformer``, ``dncnn``, ``compression`` and the sparse
``front_end`` purify by themselves. ``store`` keeps networks that are trained here. A target classifier is one module
here with a loader that gives a frozen network in evaluation mode (``Normalised`` does what stands around somebody
else's); ``evaluation.subjects`` names it for grids.
"""

from raypurify.nets.wide_resnet import WideResNet

__all__ = ["WideResNet"]
