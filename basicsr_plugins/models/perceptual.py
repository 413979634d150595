"""The toolbox's `PerceptualLoss`, with a VGG that is read from a file and never downloaded.

Shape shorthand: b batch, t frames, h and w height and width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import torch
import torchvision
from basicsr.archs import vgg_arch
from torch import Tensor, nn

from basicsr_plugins.compat.rebind import replaced
from basicsr_plugins.errors import InputError, one_line

VGG = 'vgg19'  # the toolbox's default
VGG_FILE = vgg_arch.VGG_PRETRAIN_PATH  # where the toolbox too looks for it
PREFIX = 'features.'  # of the convolutions; the classifier behind them is not needed


def as_images(frames: Tensor) -> Tensor:
    """(b, t, c, h, w) -> (b * t, c, h, w); images stay as they are."""
    return frames.flatten(0, -4)


@contextlib.contextmanager
def local_vgg(options: Mapping | None, path: str) -> Iterator[None]:
    """Meanwhile a `PerceptualLoss` that is built gets its VGG from a file; without options, nothing changes.

    Args:
        options: `perceptual_opt`.
        path: A state dict of torchvision's VGG of the type that the options name.

    Raises:
        InputError: If there is no such file, it does not fit, or the VGG has no such layer.
    """
    if not options or options.get('type') != 'PerceptualLoss':
        yield
        return
    check_vgg(options, path)
    kind = options.get('vgg_type', VGG)
    trained = SimpleNamespace(features=_read_features(kind, path))
    models = SimpleNamespace(**{kind: lambda pretrained: trained})  # in the place of torchvision's, which download
    with replaced(vgg_arch, 'VGG_PRETRAIN_PATH', ''), replaced(vgg_arch, 'vgg', models):
        yield


def check_vgg(options: Mapping | None, path: str) -> None:
    """Refuse layers that a `PerceptualLoss`'s VGG does not have, and a file of its weights that is not there.

    Args:
        options, path: As in `local_vgg`.

    Raises:
        InputError: Naming the layer or the file.
    """
    if not options or options.get('type') != 'PerceptualLoss':
        return
    kind = options.get('vgg_type', VGG)
    for name in options['layer_weights']:
        if name not in vgg_arch.NAMES[kind.replace('_bn', '')]:
            raise InputError(f'train: perceptual_opt: layer_weights: {kind} has no layer {name!r}.')
    if not Path(path).is_file():
        raise InputError(
            f'train: perceptual_opt needs the weights of {kind}, but there is no file {path}; put the file that '
            'torchvision has of them there, or name it as path: pretrain_network_vgg.'
        )


def _read_features(kind: str, path: str) -> nn.Module:
    """The convolutions of a VGG."""
    with torch.device('meta'):  # nothing is initialised
        features = getattr(torchvision.models, kind)(weights=None).features
    try:
        weights = torch.load(path, map_location='cpu', weights_only=True)
        weights = {name[len(PREFIX) :]: value for name, value in weights.items() if name.startswith(PREFIX)}
        features.to_empty(device='cpu').load_state_dict(weights)
    except Exception as error:  # of any other file
        raise InputError(
            f'path: pretrain_network_vgg: {path} does not load into {kind} ({one_line(error)[:200]}).'
        ) from error
    return features
