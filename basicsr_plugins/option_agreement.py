"""What keys of an option file, each possible, must agree on. Each function raises `OptionError`, naming the key."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping

from basicsr_plugins.option_schema import OptionError
from basicsr_plugins.scales import Scale

CSV_COLUMNS = ('dataset', 'iter', 'clip')  # of metrics.csv, before the metrics


def check_added(section: Mapping, name: str, scale: Scale | None) -> None:
    """What the toolbox sets in a section of `datasets` does not stand there with another value."""
    if 'resume' in section:
        raise OptionError(f'datasets: {name}: resume is set by the run; leave it out.', ('datasets', name, 'resume'))
    for key, value in (('phase', name.split('_')[0]), ('scale', scale)):
        if section.get(key, value) != value:
            message = f'datasets: {name}: {key} is set by the run, to {value}; leave it out.'
            raise OptionError(message, ('datasets', name, key))


def check_uint8(section: Mapping, name: str, model: type) -> None:
    """Samples of whole numbers are for models that make floats of them."""
    if section.get('uint8') and not getattr(model, 'takes_uint8', False):
        message = f'datasets: {name}: uint8 is for VSRModel and VSRGANModel, which make floats of it; leave it out.'
        raise OptionError(message, ('datasets', name, 'uint8'))


def check_clips(section: Mapping, name: str, cls: type) -> None:
    """Validation and tests read whole clips."""
    if name != 'train' and hasattr(cls, 'option_keys') and not hasattr(cls, 'clip'):
        message = f'datasets: {name}: {section["type"]} gives samples for training; take VSRTestDataset.'
        raise OptionError(message, ('datasets', name, 'type'))


def check_names(datasets: Mapping[str, Mapping]) -> None:
    """Images and metrics of each are kept under its own name."""
    names = {}
    for section, options in datasets.items():
        if section != 'train' and names.setdefault(options['name'], section) != section:
            message = f'datasets: {section}: the name {options["name"]} is that of {names[options["name"]]} too.'
            raise OptionError(message, ('datasets', section, 'name'))


def check_metric_names(names: Iterable[str]) -> None:
    """None is that of another column of `metrics.csv`."""
    for name in names:
        if name in CSV_COLUMNS:
            message = f'val: metrics: {name} is a column of metrics.csv already; name the metric otherwise.'
            raise OptionError(message, ('val', 'metrics', name))


def check_loader(section: Mapping, name: str) -> None:
    """What the loader of a dataset reads."""
    workers = section.get('num_worker_per_gpu', 0) if name == 'train' else 0
    if section.get('persistent_workers') and not workers:
        reason = 'needs num_worker_per_gpu above 0' if name == 'train' else 'is for training, where there are workers'
        raise OptionError(f'datasets: {name}: persistent_workers {reason}.', ('datasets', name, 'persistent_workers'))
    if name == 'train' and section.get('prefetch_mode') == 'cuda' and section.get('pin_memory') is not True:
        message = 'datasets: train: prefetch_mode: cuda needs pin_memory: true.'
        raise OptionError(message, ('datasets', name, 'prefetch_mode'))


def check_schedule(train: Mapping) -> None:
    """The scheduler's periods, and how long training is."""
    scheduler = train.get('scheduler') or {}
    for key in ('periods', 'restarts'):
        weights = scheduler.get('restart_weights', (1,))
        if key in scheduler and len(scheduler[key]) != len(weights):
            message = f'train: scheduler: {key} has {len(scheduler[key])} items, but restart_weights {len(weights)}.'
            raise OptionError(message, ('train', 'scheduler', key))
    if train['total_iter'] > sum(scheduler.get('periods', [train['total_iter']])):
        whole = f'{sum(scheduler["periods"]):g}'
        message = f'train: total_iter is {train["total_iter"]}, but the periods of the scheduler end at {whole}.'
        raise OptionError(message, ('train', 'total_iter'))


def check_losses(train: Mapping) -> None:
    """There is one."""
    if not train.get('pixel_opt') and not train.get('perceptual_opt'):
        raise OptionError("train: the key 'pixel_opt' is missing: there is no loss.", ('train',))


def check_logger(opt: Mapping) -> None:
    """What it writes to is installed."""
    logger, path = opt['logger'], ('logger', 'wandb')
    if 'debug' in opt['name']:
        return
    if (logger.get('wandb') or {}).get('project') is not None:
        if not logger['use_tb_logger']:
            raise OptionError('logger: wandb: project needs use_tb_logger: true, whose log it sends.', path)
        if importlib.util.find_spec('wandb') is None:
            message = 'logger: wandb: project is set, but wandb is not installed; leave it empty (~) or install wandb.'
            raise OptionError(message, path)
    if logger['use_tb_logger'] and importlib.util.find_spec('tensorboard') is None:
        message = 'logger: use_tb_logger is true, but tensorboard is not installed.'
        raise OptionError(message, ('logger', 'use_tb_logger'))
