"""What a whole option file of BasicSR may hold; `option_agreement` has what its keys must agree on.

Nothing is declared twice: arguments of networks, losses, schedulers, optimizers and metrics come from their signatures;
a model or dataset class of this package says its keys as `option_keys`, a network the ranges of its arguments as
`argument_ranges`. Of classes that say nothing only that is checked which is certain to fail: of the toolbox's what its
code reads, of others what its trainer and loader read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import basicsr.losses
import basicsr.metrics  # noqa: F401  # fills its registry
import torch
from basicsr.archs import build_network
from basicsr.models import lr_scheduler
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    Registry,
)

from basicsr_plugins.option_agreement import (
    check_added,
    check_clips,
    check_loader,
    check_logger,
    check_losses,
    check_metric_names,
    check_names,
    check_schedule,
    check_uint8,
)
from basicsr_plugins.option_schema import Key, Schema, check_section, keys_of, located
from basicsr_plugins.refusals import is_ours, no_log, refusing

MOST = 10**9  # iterations
WIDTH, DEPTH, FACTOR = (1, 1024), (0, 1000), (1, 16)
RANGES = {  # of the arguments of networks, losses, metrics and optimizers, whose names mean the same everywhere
    **dict.fromkeys(('num_feat', 'mid_channels', 'num_channel', 'embed_dim', 'num_grow_ch', 'num_in_ch'), WIDTH),
    **dict.fromkeys(('num_out_ch', 'deform_groups', 'deformable_groups', 'num_frame', 'squeeze_factor'), WIDTH),
    **dict.fromkeys(
        ('num_block', 'num_blocks', 'num_extract_block', 'num_reconstruct_block', 'num_mdrb', 'num_upsample_block'),
        DEPTH,
    ),
    **dict.fromkeys(('num_group', 'num_conv', 'num_layer', 'temporal_padding'), DEPTH),
    **dict.fromkeys(('scale', 'upscale'), FACTOR),
    **dict.fromkeys(('dilations',), (1, 1024)),
    **dict.fromkeys(('keyframe_stride', 'cpu_cache_length'), (1, MOST)),
    **dict.fromkeys(('max_residue_magnitude', 'loss_weight', 'perceptual_weight', 'style_weight'), (0.0, None)),
    **dict.fromkeys(('eps', 'weight_decay', 'eta_min', 'gamma', 'restart_weights'), (0.0, None)),
    **dict.fromkeys(('restarts', 'milestones'), (0, MOST)),
    'reduction': ('mean', 'sum'),  # with none there is no loss to go back from
    'criterion': ('l1', 'l2', 'fro'),
    'vgg_type': tuple(f'vgg{depth}{bn}' for depth in (11, 13, 16, 19) for bn in ('', '_bn')),
    'input_order': ('HWC',),  # as validation gives images
    'convert_to': ('y', 'gray'),
    'crop_border': (0, 10000),
}
TENSOR_METRICS = ('calculate_psnr_pt', 'calculate_ssim_pt')  # validation gives images
NOT_PIXEL_LOSSES = ('PerceptualLoss', 'GANLoss', 'MultiScaleGANLoss', 'WeightedTVLoss')


# ---------------------------------------------------------------- parts that have a type


def registered(registry: Registry) -> dict[str, Any]:
    """The classes or functions of a registry by the names that option files may use."""
    return {name[: -len('_basicsr')] if name.endswith('_basicsr') else name: value for name, value in registry}


def of_type(
    noun: str, known: Callable[[], Mapping[str, Any]], keys: Callable[[Any], Schema]
) -> Callable[[Mapping], Schema]:
    """The schema of a section that names its class as `type`: `keys` of that class, or one that refuses the type."""

    def schema(section: Mapping) -> Schema:
        names = known()
        if section.get('type') not in tuple(names):
            return {'type': Key('str', required=True, choices=tuple(names), noun=noun), '*': Key()}
        return {'type': Key('str', required=True), **keys(names[section['type']])}

    return schema


def call_keys(function: Callable, *skip: str, **more: Key) -> Schema:
    """The arguments of a class's constructor or a function, with the ranges that are known of them, and `more`."""
    ours = is_ours(function)
    ranges = {**(RANGES if ours else {}), **getattr(function, 'argument_ranges', {})}
    return {**keys_of(function, ranges, skip, closed=ours and not isinstance(function, type)), **more}


def metric_keys(function: Callable) -> Schema:
    """A metric's arguments; the toolbox's take and ignore any others, among them the trainer's `better`."""
    return call_keys(function, 'img', 'img2', better=Key('str', choices=('higher', 'lower')))


def scheduler_keys(cls: type) -> Schema:
    more = {'periods': Key('list[float]', required=True, above=0)} if cls is COSINE else {}
    if cls is not COSINE:
        more['milestones'] = Key('list[count]', required=True, low=0, least=0)
        more['restarts'] = Key('list[count]', default=(0,), low=0)
    return call_keys(cls, 'optimizer', 'last_epoch', **more)


def optimizer_keys(cls: type) -> Schema:
    keys = keys_of(cls, RANGES, ('params',))
    keys['lr'] = Key('float', required=True, above=0)
    if 'betas' in keys:
        keys['betas'] = Key('list[float]', default=keys['betas'].default, low=0, below=1, least=2, most=2)
    return keys


def optimizers() -> dict[str, type]:
    """Those of torch that the toolbox's models know by name."""
    names = BaseModel.get_optimizer.__code__.co_names
    return {name: getattr(torch.optim, name) for name in names if isinstance(getattr(torch.optim, name, None), type)}


OWN_OPTIMIZERS = {'SGD': torch.optim.SGD}  # that our models know beside those


def own_optimizers() -> dict[str, type]:
    """Those that the models of this package know."""
    return {**optimizers(), **OWN_OPTIMIZERS}


COSINE, MULTI_STEP = lr_scheduler.CosineAnnealingRestartLR, lr_scheduler.MultiStepRestartLR
SCHEDULERS = {'CosineAnnealingRestartLR': COSINE, 'MultiStepLR': MULTI_STEP, 'MultiStepRestartLR': MULTI_STEP}


def losses(*without: str) -> dict[str, type]:
    return {name: loss for name, loss in registered(LOSS_REGISTRY).items() if name not in without}


def image_metrics() -> dict[str, Callable]:
    return {name: metric for name, metric in registered(METRIC_REGISTRY).items() if name not in TENSOR_METRICS}


NETWORK = Key('dict', required=True, keys=of_type('network', lambda: registered(ARCH_REGISTRY), call_keys))
OPTIMIZER = Key('dict', required=True, keys=of_type('optimizer', optimizers, optimizer_keys))
OWN_OPTIMIZER = Key('dict', required=True, keys=of_type('optimizer', own_optimizers, optimizer_keys))
SCHEDULER = Key('dict', required=True, keys=of_type('scheduler', lambda: SCHEDULERS, scheduler_keys))
PIXEL_LOSS = Key('dict | None', keys=of_type('pixel loss', lambda: losses(*NOT_PIXEL_LOSSES), call_keys))
PERCEPTUAL_LOSS = Key(
    'dict | None',
    keys=of_type('perceptual loss', lambda: {'PerceptualLoss': losses()['PerceptualLoss']}, call_keys),
)
METRICS = Key('dict | None', keys={'*': Key('dict', keys=of_type('metric', image_metrics, metric_keys))})


# ---------------------------------------------------------------- sections that the trainer and the loader read

FREQUENCY = Key('count', required=True, low=1, high=MOST)
TRAINER = {'total_iter': FREQUENCY, 'warmup_iter': Key('count', default=-1, low=-1, high=MOST)}
TOOLBOX_TRAIN = {
    'ema_decay': Key('float', default=0, low=0, below=1),
    'optim_g': OPTIMIZER,
    'scheduler': SCHEDULER,
    'pixel_opt': PIXEL_LOSS,
    'perceptual_opt': PERCEPTUAL_LOSS,
}
WANDB = {'project': Key('str | None'), 'resume_id': Key('str | None')}
LOGGER = {
    'print_freq': FREQUENCY,
    'save_checkpoint_freq': FREQUENCY,
    'use_tb_logger': Key('bool', required=True),
    'wandb': Key('dict | None', keys=WANDB),
}
DIST_PARAMS = {
    'backend': Key('str', choices=('nccl', 'gloo', 'mpi')),
    'port': Key('int | None', default=29500, low=1, high=65535),
}
LOADER = {
    'dataset_enlarge_ratio': Key('float', default=1, above=0, high=10**6),
    'prefetch_mode': Key('str | None', choices=('cpu', 'cuda')),
    'num_prefetch_queue': Key('int', default=1, low=1, high=1024),
    'pin_memory': Key('bool', default=False),
    'persistent_workers': Key('bool', default=False),
    'use_shuffle': Key('bool'),  # stands in the toolbox's option files; no code reads it
}
SCALE = Key('float | list[float]', required=True, low=FACTOR[0], high=FACTOR[1], least=2, most=2)
WHOLE_SCALE = Key('int', required=True, low=FACTOR[0], high=FACTOR[1])  # of the toolbox's models
BACKEND = Key('str', required=True, choices=('disk', 'lmdb', 'memcached'))
TOOLBOX_PATHS = ('experiments_root', 'results_root', 'models', 'training_states', 'log', 'visualization')  # added by it
TOOLBOX_DATA = {  # types of the toolbox's datasets' keys; the keys without which their constructors fail
    'io_backend': Key('dict', required=True, keys={'type': BACKEND, '*': Key()}),
    'num_frame': Key('int', low=-1, high=10000),
    'gt_size': Key('int', low=1, high=65536),
    'interval_list': Key('list[int]', low=1, high=10000),
    **dict.fromkeys(('random_reverse', 'use_hflip', 'use_rot', 'cache_data', 'test_mode'), Key('bool')),
}
TOOLBOX_REQUIRED = {
    'REDSRecurrentDataset': 'dataroot_gt dataroot_lq meta_info_file val_partition test_mode num_frame gt_size',
    'REDSDataset': 'dataroot_gt dataroot_lq dataroot_flow meta_info_file val_partition num_frame gt_size interval_list',
    'Vimeo90KDataset': 'dataroot_gt dataroot_lq meta_info_file num_frame gt_size random_reverse use_hflip use_rot',
    'VideoTestDataset': 'dataroot_gt dataroot_lq cache_data num_frame',
    'VideoTestVimeo90KDataset': 'dataroot_gt dataroot_lq cache_data num_frame meta_info_file',
    'VideoRecurrentTestDataset': 'dataroot_gt dataroot_lq cache_data num_frame',
    'PairedImageDataset': 'dataroot_gt dataroot_lq',
}


def dataset_keys(cls: type, phase: str | None = None) -> Schema:
    """What a dataset class and the toolbox's loader read of a section of `datasets`.

    Args:
        cls: The class. Its `option_keys`, if it has them, are all that it takes.
        phase: `train`, `val` or `test`; None without the loader.
    """
    declared = getattr(cls, 'option_keys', {})
    keys = {
        'name': Key('name' if declared else 'str', required=True),
        'type': Key('str', required=True),
        **dict.fromkeys(('phase', 'scale', 'resume'), Key()),  # added to what stands in the file
        'batch_size_per_gpu': Key('int', required=phase == 'train', low=1, high=65536),
        'num_worker_per_gpu': Key('int', required=phase == 'train', low=0, high=256),
        **LOADER,
        **declared,
    }
    if not declared:
        keys.update(dict.fromkeys(('dataroot_gt', 'dataroot_lq'), Key('str | None')))
    if not declared and is_ours(cls):
        keys.update(TOOLBOX_DATA)
        for name in TOOLBOX_REQUIRED.get(cls.__name__, '').split():
            keys[name] = replace(keys.get(name, Key()), required=True)
    return keys if declared else {**keys, '*': Key()}


def check_dataset_options(cls: type, opt: Mapping) -> None:
    """Refuse options that a dataset class cannot use, as its constructor gets them from the toolbox.

    Raises:
        OptionError: Naming the key.
    """
    added = {'phase': Key('str', required=True), 'scale': SCALE}
    check_section(opt, {**dataset_keys(cls), **added}, 'datasets', str(opt.get('name', cls.__name__)))


def datasets_key(names: Mapping, model: type, is_train: bool) -> Key:
    """The section `datasets` with sections of these names in it; a second one of a phase is `val_2`."""
    several = ('val',) if is_train else ('test', 'val') if hasattr(model, 'option_keys') else ('test', 'val', 'train')
    sections = {}
    for name in dict.fromkeys((*['train'] * is_train, *several, *map(str, names))):
        phase = name.split('_')[0]
        if phase in several or (is_train and name == 'train'):
            keys = of_type('dataset', lambda: registered(DATASET_REGISTRY), partial(dataset_keys, phase=phase))
            required = name == 'train' if is_train else name == 'test' and not names
            sections[name] = Key('dict', required=required, keys=keys)
    return Key('dict', required=True, keys=sections)


# ---------------------------------------------------------------- the file


def model_sections(model: type, is_train: bool) -> Schema:
    """The sections that a model class reads: `network_g`, its `more_networks`, `path`, `train`, `val`."""
    declared = getattr(model, 'option_keys', {})
    save_img = Key('bool', required=True)
    val = {'metrics': METRICS, 'save_img': save_img} if is_ours(model) else {'save_img': save_img}
    if is_train:
        val['val_freq'] = FREQUENCY
    path = {'pretrain_network_g': Key('str | None'), 'resume_state': Key('str | None')}
    train = {**TRAINER, **(TOOLBOX_TRAIN if is_ours(model) and not declared else {})}
    own = {
        name: {**keys, **declared.get(name, {}), **({} if declared else {'*': Key()})}
        for name, keys in (('path', path), ('val', val), ('train', train))
    }
    sections = {
        'path': Key('dict', required=True, keys=own['path']),
        'val': Key('dict | None' if is_train else 'dict', required=not is_train, keys={**own['val'], **val}),
        'network_g': NETWORK if is_ours(model) else Key(),
        **dict.fromkeys(getattr(model, 'more_networks', ()), replace(NETWORK, required=is_train)),
    }
    return {**sections, 'train': Key('dict', required=True, keys=own['train'])} if is_train else sections


def file_schema(opt: Mapping, is_train: bool) -> Schema:
    """The schema of an option file, by the classes that it names."""
    models = registered(MODEL_REGISTRY)
    model = models.get(opt.get('model_type')) if isinstance(opt.get('model_type'), str) else None
    if model is None:
        return {'model_type': Key('str', required=True, choices=tuple(models)), '*': Key()}
    ours = is_ours(model)
    names = opt['datasets'] if isinstance(opt.get('datasets'), Mapping) else {}
    schema = {
        'name': Key('name', required=True),
        'model_type': Key('str', required=True),
        'scale': SCALE if hasattr(model, 'option_keys') else replace(WHOLE_SCALE, required=False),
        'num_gpu': Key('int', required=True, low=0, high=4096, choices=('auto',)),
        'manual_seed': Key('int | None', low=0, high=2**32 - 2**16),
        'find_unused_parameters': Key('bool', default=False),
        'datasets': datasets_key(names, model, is_train),
        **model_sections(model, is_train),
        'logger': Key('dict', required=is_train, keys=LOGGER if ours else {**LOGGER, '*': Key()}),
        'dist_params': Key('dict', keys=DIST_PARAMS if ours else {'*': Key()}),
    }
    if not is_train:  # a file for training may be tested too
        schema['train'] = schema['logger'] = Key('dict | None')
    if hasattr(model, 'option_keys'):
        return schema
    networks = [name for name in opt if str(name).startswith('network_')] if ours else []
    return {**schema, **dict.fromkeys(networks, NETWORK), '*': Key()}


def check_model_options(model: type, opt: Mapping) -> None:
    """Refuse options that a model class of this package cannot use, as its constructor gets them from the toolbox.

    Raises:
        OptionError: Naming the key.
    """
    sections = model_sections(model, opt['is_train'])
    given = {name: value for name, value in opt.items() if name in sections}
    if isinstance(given.get('path'), Mapping):
        given['path'] = {name: value for name, value in given['path'].items() if name not in TOOLBOX_PATHS}
    check_section(given, sections)


def check_option_file(opt: Mapping, is_train: bool) -> None:
    """Refuse whatever a training or test with these options is sure to fail at, or to ignore.

    Args:
        opt: The options as they stand in the file.
        is_train: Whether they are for training.

    Raises:
        OptionError: One sentence that names the first key or value that is wrong.
    """
    check_section(opt, file_schema(opt, is_train))
    model = registered(MODEL_REGISTRY)[opt['model_type']]
    check_names(opt['datasets'])
    for name, section in opt['datasets'].items():
        check_loader(section, name)
        check_clips(section, name, registered(DATASET_REGISTRY)[section['type']])
        check_added(section, name, opt.get('scale'))
        check_uint8(section, name, model)
    if hasattr(model, 'option_keys'):
        check_metric_names((opt.get('val') or {}).get('metrics') or {})
    if is_train:
        if is_ours(model):
            check_schedule(opt['train'])
        settings = getattr(model, 'init_training_settings', None)
        if settings is SRModel.init_training_settings or (hasattr(model, 'option_keys') and is_ours(settings)):
            check_losses(opt['train'])
        check_logger(opt)


def check_parts(opt: Mapping) -> None:
    """Refuse options that datasets and networks cannot be built with, before there is a folder of the run.

    Datasets are opened once, without keeping frames in memory; networks are built once, on the CPU, and random numbers
    go on as if they had not been. A model class says by `check_options` what it cannot do with its network.

    Args:
        opt: All options, as the toolbox completes them.

    Raises:
        OptionError: Naming the key.
    """
    model = registered(MODEL_REGISTRY)[opt['model_type']]
    for name, section in opt['datasets'].items():
        cls, section = registered(DATASET_REGISTRY)[section['type']], deepcopy(section)
        if 'cache_data' in section:
            section['cache_data'] = False
        if is_ours(cls):
            what = f'datasets: {name}: {section["type"]} cannot be used'
            with no_log(), located('datasets', name), refusing(what, cls):
                cls(section)
    nets = {}
    for name in _network_names(opt) if is_ours(model) else ():
        what, network = f'{name}: a network cannot be used', registered(ARCH_REGISTRY)[opt[name]['type']]
        with no_log(), torch.random.fork_rng(devices=()), located(name), refusing(what, network):
            nets[name] = build_network(opt[name])
    if hasattr(model, 'check_options'):
        model.check_options(opt, nets['network_g'])


def _network_names(opt: Mapping) -> list[str]:
    return [name for name in opt if name == 'network_g' or (opt['is_train'] and name.startswith('network_'))]
