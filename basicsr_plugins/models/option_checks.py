"""What the options of a training ask of the networks that they name: checked before any work, and by the model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from basicsr.utils.registry import METRIC_REGISTRY
from torch import nn

from basicsr_plugins.errors import InputError, check_keys
from basicsr_plugins.models.network_spec import NetworkSpec, require_scale, spec_of
from basicsr_plugins.models.perceptual import VGG_FILE, check_vgg
from basicsr_plugins.models.restoration import check_flip
from basicsr_plugins.models.shipped_weights import find_weights
from basicsr_plugins.option_schema import located
from basicsr_plugins.refusals import refusing
from basicsr_plugins.scales import describe_scale


def check_files(path: Mapping, *networks: str) -> None:
    """Refuse weights to start from, or to test, that are not there.

    Args:
        path: The section.
        networks: The networks' sections.

    Raises:
        OptionError: Naming the key.
    """
    for key in (f'pretrain_{name}' for name in networks):
        if path.get(key) is not None:
            with located('path', key):
                try:
                    find_weights(path[key])
                except InputError as error:
                    raise InputError(f'path: {key}: {error}') from error


def check_network(opt: Mapping, net: nn.Module) -> None:
    """Refuse what the options ask of a network and it cannot do.

    Raises:
        OptionError: Naming the key.
    """
    with located('network_g'), refusing('network_g: a network cannot be used', type(net)):
        spec = spec_of(net)
    with located('scale'):
        require_scale(net, opt['scale'])
    for name, metric_opt in ((opt.get('val') or {}).get('metrics') or {}).items():  # not at the first validation
        with located('val', 'metrics', name):
            check_metric(metric_opt['type'])
    if (opt.get('val') or {}).get('flip_seq', False):
        with located('val', 'flip_seq'):
            check_flip(spec)
    for name, section in opt.get('datasets', {}).items():
        with located('datasets', name):
            _check_frames(spec, name, section)
    if opt['is_train']:
        _check_training(opt, net, spec)


def _check_training(opt: Mapping, net: nn.Module, spec: NetworkSpec) -> None:
    train = opt['train']
    if not any(parameter.requires_grad for parameter in net.parameters()):
        with located('network_g'):
            raise InputError(f'network_g: {spec.name} has nothing that is trained.')
    with located('train', 'perceptual_opt'):
        check_vgg(train.get('perceptual_opt'), opt['path'].get('pretrain_network_vgg') or VGG_FILE)
    with located('train', 'auxiliary_weights'):
        weights = getattr(net, 'auxiliary_weights', {})
        check_keys('train: auxiliary_weights', train.get('auxiliary_weights') or {}, [], list(weights))
    if weights and not train.get('pixel_opt'):
        with located('train'):
            raise InputError(f'train: pixel_opt is missing: {spec.name} takes it for its own losses too.')
    if train.get('amp') == 'float16' and (opt['num_gpu'] == 0 or not torch.cuda.is_available()):
        with located('train', 'amp'):
            raise InputError('train: amp: float16 is for GPUs; on a CPU say bfloat16, or none.')
    if train.get('checkpointing', False) and spec.steps is None:
        with located('train', 'checkpointing'):
            raise InputError(
                f'train: checkpointing: {spec.name} does not run step by step, so that there is nothing to recompute; '
                'say false.'
            )
    with located('datasets', 'train', 'scale_range'):
        _check_scale_range(spec, opt.get('datasets', {}).get('train', {}).get('scale_range'))


def _check_scale_range(spec: NetworkSpec, scale_range: list | None) -> None:
    """Refuse samples of any scale for a network that has one, or says of its weights something else."""
    if scale_range is None:
        return
    if spec.scale_range is None or spec.lq == 'bicubic':
        raise InputError(
            f'datasets: train: scale_range is for networks of any scale, as BasicAVSR; {spec.name} upscales by '
            f'{describe_scale(spec.scale)}.'
        )
    if spec.trained_scales is not None and list(spec.trained_scales) != list(scale_range):
        raise InputError(
            f'datasets: train: scale_range is {list(scale_range)}, but network_g: trained_scales, which its '
            f'weights will say, {list(spec.trained_scales)}; set both alike.'
        )


def _check_frames(spec: NetworkSpec, name: str, section: Mapping) -> None:
    """Refuse samples and clips of other frames than the network takes and makes."""
    interval, is_training = section.get('lq_interval', 1), name == 'train' and 'num_frame' in section
    needed = is_training or section.get('dataroot_gt') is not None
    if interval != spec.time_scale and (needed or interval != 1):
        with located('lq_interval'):
            raise InputError(
                f'datasets: {name}: lq_interval is {interval}, but {spec.name} enlarges the frame rate '
                f'{spec.time_scale} times; set it to {spec.time_scale}.'
            )
    if is_training and spec.input_type == 'window' and section['num_frame'] != spec.num_frame:
        with located('num_frame'):
            raise InputError(
                f'datasets: {name}: num_frame is {section["num_frame"]}, but {spec.name} takes windows of '
                f'{spec.num_frame} frames.'
            )


def check_metric(name: str) -> None:
    """Refuse a metric of the registry that cannot be computed on this machine.

    Raises:
        InputError: If it says so.
    """
    check = getattr(METRIC_REGISTRY.get(name), 'check', None)
    if check is not None:
        check()
