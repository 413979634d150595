"""What the options of a training ask of the networks that they name: checked before any work, and by the model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from basicsr.archs import build_network
from basicsr.utils import logger as toolbox_logger
from basicsr.utils.registry import METRIC_REGISTRY
from torch import nn

from basicsr_plugins.errors import InputError, check_keys, failed_at
from basicsr_plugins.memory import is_out_of_memory
from basicsr_plugins.models.network_spec import NetworkSpec, require_scale, spec_of
from basicsr_plugins.models.restoration import check_flip
from basicsr_plugins.option_file import is_ours
from basicsr_plugins.option_schema import located
from basicsr_plugins.scales import describe_scale

BUILDING = (TypeError, ValueError, AssertionError, LookupError, ArithmeticError, NotImplementedError)


def check_networks(opt: Mapping, *names: str) -> None:
    """Build the networks of a run once, on the CPU, and refuse what the options ask of them and they cannot do.

    Random numbers go on as if nothing had been built.

    Args:
        opt: All options, as the toolbox completes them.
        names: Their sections; the first is what is trained to restore.

    Raises:
        OptionError: Naming the key.
    """
    nets = []
    for name in names:
        with no_log(), torch.random.fork_rng(devices=()), located(name):
            try:
                nets.append(build_network(opt[name]))
            except InputError:
                raise
            except BUILDING as error:
                raise InputError(f'{name}: a network cannot be used ({failed_at(error)}).') from error
        key = f'pretrain_{name}'
        weights = opt['path'].get(key)
        if weights is not None and not Path(weights).is_file():
            with located('path', key):
                raise InputError(f'path: {key}: there is no file {weights}.')
    check_network(opt, nets[0])


def check_network(opt: Mapping, net: nn.Module) -> None:
    """Refuse what the options ask of a network and it cannot do.

    Raises:
        OptionError: Naming the key.
    """
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
        with located('datasets', name, 'lq_interval'):
            _check_interval(spec, name, section)
    if opt['is_train']:
        _check_training(opt, net, spec)


def _check_training(opt: Mapping, net: nn.Module, spec: NetworkSpec) -> None:
    train = opt['train']
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


def _check_interval(spec: NetworkSpec, name: str, section: Mapping) -> None:
    """Refuse samples without LQ of frames that the network does not make."""
    interval = section.get('lq_interval', 1)
    if interval not in (1, spec.time_scale):
        raise InputError(f'datasets: {name}: lq_interval is {interval}, but {spec.name} makes no frames between.')


def check_metric(name: str) -> None:
    """Refuse a metric of the registry that cannot be computed on this machine.

    Raises:
        InputError: If it says so.
    """
    check = getattr(METRIC_REGISTRY.get(name), 'check', None)
    if check is not None:
        check()


@contextmanager
def refusing(thing: object, what: str) -> Iterator[None]:
    """Tell in one sentence, with the line that failed, what a network or a metric cannot do with its options.

    Errors of others than those of the toolbox and of this package are left as they are: who writes one reads them.

    Args:
        thing: A network's class, a metric.
        what: Name and verb, as in `EFAR does not restore a clip`.

    Raises:
        InputError: In place of any other error, but that memory ran out.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or is_out_of_memory(error) or not is_ours(thing):
            raise
        raise InputError(f'{what} ({failed_at(error)}).') from error


@contextmanager
def no_log() -> Iterator[None]:
    """Without the toolbox's log: the first message of all would open it for good, and without its file."""
    logger, opened = logging.getLogger('basicsr'), toolbox_logger.initialized_logger
    toolbox_logger.initialized_logger = {**opened, logger.name: True}
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False
        toolbox_logger.initialized_logger = opened
