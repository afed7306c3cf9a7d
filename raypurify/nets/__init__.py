"""Networks: the WideResNet that raypurify trains, and pretrained target classifiers to attack and defend."""

from raypurify.nets.wide_resnet import WideResNet

__all__ = ["WideResNet"]
