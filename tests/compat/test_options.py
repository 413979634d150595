"""Option files are read as data, checked at start, and send output to the current folder."""

import random
import sys
from fractions import Fraction
from importlib.machinery import ModuleSpec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.models import build_model
from basicsr.models.sr_model import SRModel
from basicsr.utils import logger, make_exp_dirs, options
from basicsr.utils.logger import initialized_logger
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY

from basicsr_plugins.compat.options import SafeOptionLoader, output_root, read_options
from basicsr_plugins.errors import InputError
from basicsr_plugins.option_file import check_option_file

from ..conftest import PROJECT

COMPLETE = """
name: x
model_type: {model}
scale: 4
num_gpu: {gpu}
datasets:
  train: {{name: clips, type: {dataset}, dataroot_gt: GT, dataroot_lq: LQ, io_backend: {{type: disk}}, num_frame: 3,
          gt_size: 64, use_hflip: true, use_rot: true, batch_size_per_gpu: 1, num_worker_per_gpu: 0}}
network_g: {{type: EFAR, num_feat: 8}}
path: {{}}
train:
  optim_g: {{type: Adam, lr: 1e-4}}
  scheduler: {{type: CosineAnnealingRestartLR, periods: [4, 4], restart_weights: [1, 0.5]}}
  total_iter: 8
  pixel_opt: {{type: CharbonnierLoss}}
val:
  val_freq: 4
  save_img: false
  metrics: {{psnr: {{type: calculate_psnr, crop_border: 0}}}}
logger: {{print_freq: 1, save_checkpoint_freq: 4, use_tb_logger: false}}
"""
VALID = COMPLETE.format(gpu=0, model='VSRModel', dataset='VSRTrainDataset')
TOOLBOX = """
name: 104_EDVR_M
model_type: {model}
scale: 4
num_gpu: 0
manual_seed: 10
datasets:
  train:
    name: REDS
    type: REDSRecurrentDataset
    dataroot_gt: datasets/REDS/train_sharp
    dataroot_lq: datasets/REDS/train_sharp_bicubic
    dataroot_flow: ~
    meta_info_file: basicsr/data/meta_info/meta_info_REDS_GT.txt
    val_partition: REDS4
    test_mode: False
    io_backend: {{type: lmdb}}
    num_frame: 15
    gt_size: 256
    interval_list: [1]
    random_reverse: false
    use_hflip: true
    use_rot: true
    use_shuffle: true
    num_worker_per_gpu: 6
    batch_size_per_gpu: 4
    dataset_enlarge_ratio: 200
    prefetch_mode: ~
  val:
    name: REDS4
    type: VideoRecurrentTestDataset
    dataroot_gt: datasets/REDS4/GT
    dataroot_lq: datasets/REDS4/sharp_bicubic
    cache_data: true
    io_backend: {{type: disk}}
    num_frame: -1
network_g: {{type: BasicVSR, num_feat: 64, num_block: 30, spynet_path: experiments/spynet.pth}}
network_d: {{type: VGGStyleDiscriminator, num_in_ch: 3, num_feat: 32}}
path: {{pretrain_network_g: ~, strict_load_g: true, resume_state: ~, param_key_d: params}}
train:
  ema_decay: 0.999
  optim_g: {{type: Adam, lr: !!float 2e-4, weight_decay: 0, betas: [0.9, 0.99]}}
  optim_d: {{type: Adam, lr: !!float 2e-4}}
  scheduler: {{type: MultiStepLR, milestones: [50000, 100000], gamma: 0.5}}
  total_iter: !!float 3e5
  warmup_iter: -1
  fix_flow: 5000
  flow_lr_mul: 0.125
  net_d_iters: 1
  pixel_opt: {{type: L1Loss, loss_weight: !!float 1e-2, reduction: mean}}
  perceptual_opt:
    type: PerceptualLoss
    layer_weights: {{'conv5_4': 1}}
    vgg_type: vgg19
    perceptual_weight: 1.0
    style_weight: 0
    criterion: l1
  gan_opt: {{type: GANLoss, gan_type: vanilla, loss_weight: !!float 5e-3}}
val:
  val_freq: !!float 5e3
  save_img: false
  metrics: {{psnr: {{type: calculate_psnr, crop_border: 0, test_y_channel: false, better: higher}}}}
logger:
  print_freq: 100
  save_checkpoint_freq: !!float 5e3
  use_tb_logger: true
  wandb: {{project: ~, resume_id: ~}}
dist_params: {{backend: nccl, port: 29500}}
find_unused_parameters: true
gpu_ids: [0]
"""
CODE = '!!python/object/apply:os.mkdir [%s]'


def test_option_file_cannot_run_code(tmp_path):
    text = f'name: {CODE % (tmp_path / "made")}'
    yaml.load(text, Loader=yaml.UnsafeLoader)
    assert (tmp_path / 'made').exists()  # what the toolbox's loader does
    (tmp_path / 'made').rmdir()

    toolbox_loader = options.ordered_yaml.__wrapped__()[0]
    assert not issubclass(toolbox_loader, (yaml.SafeLoader, getattr(yaml, 'CSafeLoader', yaml.SafeLoader)))

    with pytest.raises(yaml.constructor.ConstructorError, match='python/object/apply'):
        yaml.load(text, Loader=options.ordered_yaml()[0])
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('!!float 1e-4', 1e-4),
        ('!!float 5e3', 5000.0),
        ('4e-4', 4e-4),
        ('8/3', Fraction(8, 3)),
        ('1E5', 1e5),
        ('-2.5e-3', -2.5e-3),
        ('0.99', 0.99),
        ('[0.9, 0.99]', [0.9, 0.99]),
        ('300000', 300000),
        ('True', True),
        ('false', False),
        ('~', None),
        ('1e4x', '1e4x'),
        ('REDS4', 'REDS4'),
        ("'000'", '000'),
    ],
)
def test_numbers(text, value):
    read = yaml.load(f'key: {text}', Loader=SafeOptionLoader)['key']
    assert read == value
    assert type(read) is type(value)


def test_order_of_keys_and_anchors():
    text = 'b: &base {z: 1, a: 2}\na:\n  <<: *base\n  c: 3\n'
    read = yaml.load(text, Loader=SafeOptionLoader)
    assert list(read) == ['b', 'a']
    assert dict(read['a']) == {'z': 1, 'a': 2, 'c': 3}


def make_folders(path, monkeypatch):
    """Those that the valid options name, in the folder that is then the current one."""
    for name, side in (('GT', 256), ('LQ', 64)):
        for i in range(5):
            frame = path / name / 'a' / f'{i}.png'
            frame.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(frame), np.zeros((side, side, 3), np.uint8))
    monkeypatch.chdir(path)


def begin(monkeypatch, path, *arguments):
    """As a training begins that finds no state to go on from."""
    opt, _ = parse(monkeypatch, path, *arguments)
    make_exp_dirs(opt)
    return opt


def parse(monkeypatch, path, *arguments):
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(path), *arguments])
    return options.parse_options(str(Path(path).parent))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, 'No such file'),
        ('name: x', "the key 'model_type' is missing"),
        ('', 'holds no options'),
        ('name: [', 'is not a YAML file'),
        (f'name: {CODE % "made"}', 'is not a YAML file of plain data'),
        ('name: !!int train', 'is not a YAML file of plain data'),
        ('name: 2024-13-45 00:00:00', 'is not a YAML file of plain data'),
        ('train: ' + '[' * 5000, 'is not a YAML file of plain data'),
        ('? [train]\n: 1', r'options.yml:1: a key must be a text'),
        ('train: &a [*a]', r'options.yml:1: an alias stands for a section that it is in'),
        ('train: &a\n  x: {b: *a}', r'options.yml:.: an alias stands for a section that it is in'),
        ('train: 1\nname: x\ntrain: 2', r"options.yml:3: the key 'train' stands twice"),
        ('train: ' + 'x' * 2**20, 'is larger than an option file can be'),
        (COMPLETE.format(gpu=2, model='VSRModel', dataset='VSRTrainDataset'), 'num_gpu: 2 is asked for'),
        (
            COMPLETE.format(gpu=0, model='VSRModle', dataset='VSRTrainDataset'),
            "options.yml:3: model_type .* 'VSRModle'; did you mean 'VSRModel'",
        ),
        (
            COMPLETE.format(gpu=0, model='VSRModel', dataset='VSRTrain'),
            "options.yml:7: datasets: train: there is no dataset 'VSRTrain' .* did you mean 'VSRTrainDataset'",
        ),
    ],
)
def test_bad_option_file_is_one_sentence(monkeypatch, tmp_path, text, message):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    path = tmp_path / 'options.yml'
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        parse(monkeypatch, path)
    assert '\n' not in str(caught.value)
    assert text is None or 'train' in text or str(path) in str(caught.value)


LAUGHS = 'a: &a [x, x, x, x, x, x, x, x, x, x]\n' + ''.join(
    f'{b}: &{b} [{", ".join([f"*{a}"] * 10)}]\n' for a, b in zip('abcdefgh', 'bcdefghi')
)
MERGES = 'a: &a {x: 1}\n' + ''.join(f'{b}: &{b} {{<<: [{f"*{a}, " * 9}]}}\n' for a, b in zip('abcdefgh', 'bcdefghi'))


@pytest.mark.parametrize('text', [LAUGHS, MERGES], ids=['lists', 'merges'])
def test_aliases_that_expand_without_end(monkeypatch, tmp_path, text):
    (tmp_path / 'options.yml').write_text(text)
    with pytest.raises(InputError, match=r'options.yml:\d: with its aliases this is more than 100000 values'):
        parse(monkeypatch, tmp_path / 'options.yml')


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('name: x', "name: ''", '2: name must be the name of a folder, without slashes, but is'),
        ('name: x', 'name: /tmp/x', '2: name must be'),
        ('name: x', 'name: ../x', '2: name must be'),
        ('name: x', 'name: 5', '2: name must be .* but is 5; put names that are numbers in quotes'),
        ('scale: 4', "scale: '4'", "4: scale must be a number from 1 to 16 or a list of 2 numbers .*, but is '4'."),
        ('num_gpu: 0', 'num_gpu: 0\nmanual_seed: a', "6: manual_seed must be a whole number .* but is 'a'."),
        ('num_gpu: 0', 'num_gpus: 0', "5: there is no key 'num_gpus'; did you mean 'num_gpu'?"),
        ('num_gpu: 0', 'num_gpu: 0\nloger: {}', "6: there is no key 'loger'; did you mean 'logger'?"),
        ('datasets:', 'datasets: []\nother:', '6: datasets must be a section .* but is \\[\\]'),
        ('  train: {name', '  val: {name', "6: datasets: the key 'train' is missing"),
        ('  train: {name', '  test: {name', "7: datasets: there is no key 'test'"),
        ('batch_size_per_gpu: 1', 'batch_size_per_gpu: 0', '8: datasets: train: batch_size_per_gpu must be'),
        ('num_worker_per_gpu: 0', 'num_worker_per_gpu: -1', '8: datasets: train: num_worker_per_gpu must be'),
        (', num_worker_per_gpu: 0', '', "7: datasets: train: the key 'num_worker_per_gpu' is missing"),
        ('use_rot: true', 'use_rot: true, interval_list: []', '8: datasets: train: interval_list must be a list'),
        ('use_rot: true', 'use_rot: true, persistent_workers: true', 'persistent_workers needs num_worker_per_gpu'),
        ('use_rot: true', 'use_rot: true, prefetch_mode: cuda', 'prefetch_mode: cuda needs pin_memory: true'),
        ('num_feat: 8', 'num_feat: 0', '9: network_g: num_feat must be a whole number from 1 to 1024, but is 0.'),
        ('num_feat: 8', "num_feat: '8'", "9: network_g: num_feat .* but is '8'."),
        ('num_feat: 8', 'num_feat: 999999', '9: network_g: num_feat .* but is 999999.'),
        ('num_feat: 8', 'num_block: -1', '9: network_g: num_block must be a whole number from 0 to 1000'),
        ('num_feat: 8', 'num_blocks: 1', "9: network_g: there is no key 'num_blocks'; did you mean 'num_block'?"),
        ('path: {}', 'path: ~', '10: path must be a section .* but is empty'),
        ('path: {}', 'path: {models: x}', "10: path: there is no key 'models'"),
        ('path: {}', 'path: {pretrain_network_g: 5}', '10: path: pretrain_network_g must be a text or empty'),
        ('optim_g: {type: Adam, lr: 1e-4}', 'optim_g: {type: Adam}', "12: train: optim_g: the key 'lr' is missing"),
        ('type: Adam', 'type: Adamm', "12: train: optim_g: there is no optimizer 'Adamm' in the registry"),
        ('type: Adam, ', '', "12: train: optim_g: the key 'type' is missing"),
        ('lr: 1e-4', 'lr: abc', "12: train: optim_g: lr must be a number above 0, but is 'abc'."),
        ('lr: 1e-4', 'lr: .inf', '12: train: optim_g: lr must be a number above 0, but is inf.'),
        ('lr: 1e-4', 'lr: 1e-4, betas: [0.9]', '12: train: optim_g: betas must be a list of 2 numbers'),
        ('lr: 1e-4', 'lr: 1e-4, momentum: 0.9', "12: train: optim_g: there is no key 'momentum'"),
        ('type: CosineAnnealingRestartLR, ', '', "13: train: scheduler: the key 'type' is missing"),
        ('CosineAnnealingRestartLR', 'CosineLR', "13: train: scheduler: there is no scheduler 'CosineLR'"),
        ('periods: [4, 4]', 'periods: [4, 0]', '13: train: scheduler: periods must be a list of numbers above 0'),
        ('[1, 0.5]', '[1]', '13: train: scheduler: periods has 2 items, but restart_weights 1.'),
        ('total_iter: 8', 'total_iter: 9', '14: train: total_iter is 9, but the periods .* end at 8.'),
        ('total_iter: 8', 'total_iter: 2.5', '14: train: total_iter must be a whole number from 1 .* but is 2.5.'),
        ('total_iter: 8', 'total_iter: 0', '14: train: total_iter must be'),
        ('total_iter: 8', 'total_iter: -5', '14: train: total_iter must be'),
        ('total_iter: 8', "total_iter: '8'", "14: train: total_iter must be .* but is '8'."),
        ('  total_iter: 8\n', '', "11: train: the key 'total_iter' is missing"),
        ('  pixel_opt: {type: CharbonnierLoss}\n', '', "11: train: the key 'pixel_opt' is missing: there is no loss"),
        ('type: CharbonnierLoss', 'type: Charbonnier', "15: train: pixel_opt: there is no pixel loss 'Charbonnier'"),
        ('type: CharbonnierLoss', 'type: L1Loss, eps: 1', "15: train: pixel_opt: there is no key 'eps'"),
        ('  total_iter: 8', '  ema_decay: 2\n  total_iter: 8', '14: train: ema_decay must be a number from 0 below 1'),
        ('  total_iter: 8', '  amp: half\n  total_iter: 8', "14: train: amp cannot be 'half'; valid ones are"),
        ('  total_iter: 8', '  accumulate: 0\n  total_iter: 8', '14: train: accumulate must be'),
        ('  total_iter: 8', '  grad_clip: 0\n  total_iter: 8', '14: train: grad_clip must be a number above 0'),
        ('val_freq: 4', 'val_freq: 0', '17: val: val_freq must be'),
        ('val_freq: 4', 'val_freq: often', '17: val: val_freq must be'),
        ('  save_img: false\n', '', "16: val: the key 'save_img' is missing"),
        ('crop_border: 0', 'crop_boder: 0', "19: val: metrics: psnr: there is no key 'crop_boder'; did you mean"),
        ('crop_border: 0', 'crop_border: 0, y_channel: true', "19: val: metrics: psnr: there is no key 'y_channel'"),
        ('type: calculate_psnr', 'type: calculate_psn', "there is no metric 'calculate_psn' in the registry"),
        ('type: calculate_psnr', 'type: calculate_psnr_pt', "there is no metric 'calculate_psnr_pt'"),
        ('print_freq: 1', 'print_freq: 0', '20: logger: print_freq must be'),
        ('print_freq: 1', 'print_freg: 1', "20: logger: there is no key 'print_freg'; did you mean 'print_freq'"),
        ('save_checkpoint_freq: 4', 'save_checkpoint_freq: x', '20: logger: save_checkpoint_freq must be'),
        ('tb_logger: false', 'tb_logger: true, wandb: {project: p}', 'wandb is not installed; leave it empty'),
        ('tb_logger: false', 'tb_logger: false, wandb: {project: p}', 'wandb: project needs use_tb_logger: true'),
    ],
)
def test_wrong_options(monkeypatch, tmp_path, old, new, message):
    """Each is a traceback, a late failure or a silent mistake in the toolbox; the message begins with the line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, 'wandb', None)
    assert old in VALID
    Path('options.yml').write_text(VALID.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        parse(monkeypatch, 'options.yml')
    assert '\n' not in str(caught.value)
    assert str(caught.value).startswith('options.yml:')
    assert not Path('experiments').exists()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'gt_size: 64': 'gt_size: 62'}, '8: datasets: clips: gt_size (62) must be a multiple of scale (4).'),
        ({'dataroot_lq: LQ': 'dataroot_lq: nowhere'}, '7: datasets: clips: dataroot_lq: there is no folder nowhere.'),
        ({'dataroot_lq: LQ': 'degradation: bicubik'}, "7: datasets: clips: there is no degradation 'bicubik'; did you"),
        (
            {'dataroot_lq: LQ': 'degradation: [{type: blur, size: 4}]'},
            '7: datasets: clips: degradation: step 1 (blur): ',
        ),
        ({'dataroot_lq: LQ': 'dataroot_lq: LQ, degradation: bicubic'}, '7: datasets: clips: degradation makes the LQ'),
        ({'dataroot_lq: LQ': 'scale_range: [4, 2]'}, '7: datasets: clips: scale_range '),
        ({'dataroot_lq: LQ': 'scale_range: [2, 4]'}, '7: datasets: train: scale_range is for networks of any scale'),
        ({'num_frame: 3': 'num_frame: 3, lq_interval: 2'}, '7: datasets: train: lq_interval is 2, but EFAR enlarges'),
        (
            {'num_frame: 3': 'num_frame: 4, lq_interval: 2'},
            '7: datasets: clips: a sample that has LQ of every 2. frame',
        ),
        (
            {'num_frame: 3': 'num_frame: 3, scale: 2'},
            '7: datasets: train: scale is set by the run, to 4; leave it out.',
        ),
        ({'num_frame: 3': 'num_frame: 3, phase: val'}, '7: datasets: train: phase is set by the run, to train;'),
        ({'type: EFAR, num_feat: 8': 'type: EFAR, num_feat: 8, scale: 2'}, '4: scale is 4, but EFAR upscales by 2'),
        ({'scale: 4': 'scale: 2.5'}, '7: datasets: clips: scale is 2.5, at which patches of LQ and GT cannot be cut'),
        ({'num_feat: 8': 'deform_groups: 3'}, '9: EFAR: '),
        ({'num_feat: 8': 'spynet_path: no.pth'}, '9: spynet_path: there is no file no.pth'),
        ({'EFAR, num_feat: 8': 'DUF, num_layer: 17'}, '9: network_g: a network cannot be used (ValueError in duf_'),
        (
            {'path: {}': 'path: {pretrain_network_g: no.pth}'},
            '10: path: pretrain_network_g: there is no checkpoint no.pth',
        ),
        ({'  total_iter: 8': '  amp: float16\n  total_iter: 8'}, '14: train: amp: float16 is for GPUs; on a CPU say'),
        ({'  total_iter: 8': '  auxiliary_weights: {x: 1}\n  total_iter: 8'}, '14: train: auxiliary_weights: there'),
        (
            {'EFAR, num_feat: 8': 'EDSR, num_in_ch: 3, num_out_ch: 3', 'optim_g': 'checkpointing: true\n  optim_g'},
            '12: train: checkpointing: EDSR does not run step by step',
        ),
        (
            {'EFAR, num_feat: 8': 'EDSR, num_in_ch: 3, num_out_ch: 3', 'val_freq: 4': 'val_freq: 4\n  flip_seq: true'},
            '18: flip_seq is for recurrent networks, but EDSR',
        ),
        ({'EFAR, num_feat: 8': 'MSFFN'}, '7: datasets: train: num_frame is 3, but MSFFN takes windows of 7 frames.'),
        ({'EFAR, num_feat: 8': 'Bicubic'}, '9: network_g: Bicubic has nothing that is trained.'),
        ({'EFAR, num_feat: 8': 'SwinIR, upscale: 4'}, '9: network_g: a network cannot be used (RuntimeError in swinir'),
        (
            {'EFAR, num_feat: 8': 'SwinIR, upscale: 4, img_size: 8, window_size: 8, upsampler: [2]'},
            '9: network_g: a network cannot be used (TypeError in network_spec.py',
        ),
        ({'gt_size: 64': 'gt_size: 512'}, '7: gt_size is 512, but the frames of clip a are 256x256'),
        ({'num_frame: 3': 'num_frame: 9'}, '7: datasets: clips: num_frame is 9 at interval 1, but no clip of LQ has 9'),
        ({'num_frame: 3': 'num_frame: 3, lq_size: 16'}, '7: datasets: clips: lq_size is for scale_range, which is not'),
        ({'num_frame: 3': 'num_frame: 3, resume: x'}, '7: datasets: train: resume is set by the run; leave it out.'),
        ({'num_frame: 3': 'num_frame: 3, 5: x'}, '7: a key must be a text.'),
        (
            {'VSRModel': 'SRModel', 'EFAR, num_feat: 8': 'DUF, num_layer: 17'},
            '9: network_g: a network cannot be used (Va',
        ),
        (
            {'datasets:': 'datasets:\n  val: {name: v, type: SyntheticMotionDataset, num_frame: 3, gt_size: 64}'},
            '7: datasets: val: SyntheticMotionDataset gives samples for training; take VSRTestDataset.',
        ),
        (
            {'VSRModel': 'VideoRecurrentModel', 'num_frame: 3': 'num_frame: 3, uint8: true'},
            '7: datasets: train: uint8 is for VSRModel and VSRGANModel',
        ),
        (
            {'  pixel_opt': '  perceptual_opt: {type: PerceptualLoss, layer_weights: {conv5_4: 1}}\n  pixel_opt'},
            '15: train: perceptual_opt needs the weights of vgg19',
        ),
        ({'psnr: {': 'iter: {'}, '19: val: metrics: iter is a column of metrics.csv already; name the metric'),
    ],
)
def test_options_that_do_not_agree(monkeypatch, tmp_path, changes, message):
    """What only a dataset or a network can tell is told before there is a folder of the run, and with the line."""
    make_folders(tmp_path, monkeypatch)
    text = VALID
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    Path('options.yml').write_text(text)
    with pytest.raises(InputError) as caught:
        begin(monkeypatch, 'options.yml')
    assert str(caught.value).startswith(f'options.yml:{message}')
    assert not Path('experiments').exists()


def test_a_test_needs_no_discriminator(monkeypatch, tmp_path):
    make_folders(tmp_path, monkeypatch)
    opt = yaml.safe_load(VALID)
    test = {'name': 'a', 'type': 'VSRTestDataset', 'dataroot_lq': 'LQ', 'io_backend': {'type': 'disk'}}
    opt.update(model_type='VSRGANModel', datasets={'test': test}, val={'save_img': False})
    Path('options.yml').write_text(yaml.safe_dump({key: value for key, value in opt.items() if key != 'train'}))
    monkeypatch.setattr(sys, 'argv', ['test.py', '-opt', 'options.yml'])
    make_exp_dirs(options.parse_options(str(tmp_path), is_train=False)[0])
    assert Path('results/x').is_dir()


def test_models_of_the_toolbox_that_cannot_be_built(monkeypatch, tmp_path):
    """One sentence with the line that failed; the toolbox's own ends in an error of Python's."""
    make_folders(tmp_path, monkeypatch)
    network = 'MSRResNet, num_in_ch: 3, num_out_ch: 3, num_feat: 4'
    Path('options.yml').write_text(VALID.replace('VSRModel', 'ESRGANModel').replace('EFAR, num_feat: 8', network))
    opt = begin(monkeypatch, 'options.yml')
    with pytest.raises(
        InputError, match=r"a loss, or a network .* cannot be used \(KeyError in .*\.py, line \d+: 'network_d'\)"
    ):
        build_model(opt)
    with pytest.raises(KeyError):
        build_model.__wrapped__(opt)


def test_two_sets_of_one_name(monkeypatch, tmp_path):
    text = VALID.replace('network_g', '  val: {name: a, type: x}\n  val_2: {name: a, type: x}\nnetwork_g')
    dataset = 'VSRTestDataset, dataroot_lq: LQ, io_backend: {type: disk}'
    (tmp_path / 'options.yml').write_text(text.replace('type: x', f'type: {dataset}'))
    with pytest.raises(InputError, match=r'options.yml:10: datasets: val_2: the name a is that of val too'):
        parse(monkeypatch, tmp_path / 'options.yml')


def test_random_numbers_and_the_log_are_as_if_nothing_was_checked(monkeypatch, tmp_path):
    """A network was built on the way, and its flow network said that it is untrained."""
    make_folders(tmp_path, monkeypatch)
    Path('options.yml').write_text(VALID.replace('num_gpu: 0', 'num_gpu: 0\nmanual_seed: 5'))
    opened = {name: value for name, value in initialized_logger.items() if name != 'basicsr'}
    monkeypatch.setattr(logger, 'initialized_logger', opened)
    states = []
    for make_dirs in (make_exp_dirs.__wrapped__, make_exp_dirs):
        make_dirs(parse(monkeypatch, 'options.yml')[0])
        states.append((torch.get_rng_state(), torch.rand(3), random.random(), np.random.rand()))  # noqa: NPY002
    assert str(states[0]) == str(states[1])
    assert 'basicsr' not in opened


def test_line_of_a_merged_key(monkeypatch, tmp_path):
    text = VALID.replace('val:\n', 'val:\n  <<: {pbar: 5}\n')
    (tmp_path / 'options.yml').write_text(text)
    with pytest.raises(InputError, match=r'options.yml:17: val: pbar must be true or false, but is 5'):
        parse(monkeypatch, tmp_path / 'options.yml')


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        ('train:total_iter=0', '--force_yml train:total_iter=0: train: total_iter must be a whole number'),
        ('train:total_it=4', "--force_yml train:total_it=4: train: there is no key 'total_it'"),
        ('trian:total_iter=4', '--force_yml trian:total_iter=4 must read SECTION:KEY=VALUE'),
        ('train:total_iter', 'must read SECTION:KEY=VALUE'),
        (['train:total_iter=4', '--force_yml', 'train:warmup_iter=2'], '--force_yml stands twice'),
        ('scale=[', "--force_yml: '\\[' is not a value in YAML"),
    ],
)
def test_force_yml_is_checked(monkeypatch, tmp_path, entry, message):
    (tmp_path / 'options.yml').write_text(VALID)
    with pytest.raises(InputError, match=message):
        parse(monkeypatch, tmp_path / 'options.yml', '--force_yml', *([entry] if isinstance(entry, str) else entry))


def test_force_yml_reads_as_the_file_does(monkeypatch, tmp_path):
    make_folders(tmp_path, monkeypatch)
    (tmp_path / 'options.yml').write_text(VALID)
    forced = ('train:warmup_iter=-1', 'train:optim_g:lr=2e-3', 'train:ema_decay=0.5', 'train:total_iter=6')
    opt, _ = parse(monkeypatch, tmp_path / 'options.yml', '--force_yml', *forced)
    values = [opt['train'][key] for key in ('warmup_iter', 'ema_decay', 'total_iter')]
    assert [*values, opt['train']['optim_g']['lr']] == [-1, 0.5, 6, 2e-3]
    assert options._postprocess_yml_value.__wrapped__('-1') == '-1'  # the toolbox's: a text


@pytest.mark.parametrize('model', ['VideoRecurrentModel', 'VideoRecurrentGANModel', 'SRModel'])
def test_option_files_of_the_toolbox_pass(monkeypatch, tmp_path, model):
    """With keys of its own that only its model classes read; what surely fails is refused there too."""
    path = tmp_path / 'options.yml'
    text = TOOLBOX.format(model=model)
    path.write_text(text)
    assert parse(monkeypatch, path)[0]['train']['total_iter'] == 3e5
    for old, new in (('num_block: 30', 'num_blok: 30'), ('L1Loss', 'L1'), ('print_freq: 100', 'print_freq: 0')):
        path.write_text(text.replace(old, new))
        with pytest.raises(InputError):
            parse(monkeypatch, path)


def test_option_files_of_the_project_pass(monkeypatch):
    files = [path for path in (PROJECT / 'options').glob('*.yml') if path.name.startswith(('train_', 'test_'))]
    assert len(files) >= 12
    for path in files:
        check_option_file(read_options(path, path.name), is_train=path.name.startswith('train_'))


def test_a_test_of_nothing_is_refused():
    opt = read_options(PROJECT / 'options' / 'test_Bicubic_Vid4.yml', 'test_Bicubic_Vid4.yml')
    with pytest.raises(InputError, match="datasets: the key 'test' is missing"):
        check_option_file({**opt, 'datasets': {}}, is_train=False)


def test_classes_of_a_user_pass(monkeypatch, tmp_path):
    """Classes registered by somebody else may take any keys; only what the trainer reads is checked."""

    class UsersNet(torch.nn.Module):
        def __init__(self, **kwargs):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 3)

    class UsersData(torch.utils.data.Dataset):
        pass

    class UsersModel(SRModel):
        pass

    for registry, cls in ((ARCH_REGISTRY, UsersNet), (DATASET_REGISTRY, UsersData), (MODEL_REGISTRY, UsersModel)):
        monkeypatch.setitem(registry._obj_map, cls.__name__, cls)
    path = tmp_path / 'options.yml'
    text = VALID.replace('type: EFAR', 'type: UsersNet, wing: 7').replace(
        'type: VSRTrainDataset', 'type: UsersData, x: y'
    )
    path.write_text(text)
    parse(monkeypatch, path)
    text = text.replace('VSRModel', 'UsersModel').replace('total_iter: 8', 'total_iter: 8\n  own: {a: b}') + 'top: 1\n'
    path.write_text(text)
    parse(monkeypatch, path)
    path.write_text(text.replace('total_iter: 8', 'total_iter: x'))
    with pytest.raises(InputError, match='total_iter must be a whole number'):
        parse(monkeypatch, path)


def test_output_root():
    assert output_root('/usr/lib/python3/site-packages') == Path.cwd()
    assert output_root('/usr/lib/python3/dist-packages') == Path.cwd()
    assert output_root('/srv/BasicSR') == Path('/srv/BasicSR')


def test_python_m_writes_into_the_current_folder(monkeypatch, tmp_path):
    """The toolbox itself writes beside its package, wherever that is."""
    path = tmp_path / 'options.yml'
    path.write_text(VALID)
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(path)])
    make_folders(tmp_path, monkeypatch)
    monkeypatch.setattr(sys.modules['__main__'], '__spec__', ModuleSpec('basicsr.train', None))
    opt, _ = options.parse_options.__wrapped__('/opt/lib')
    assert opt['path']['experiments_root'] == '/opt/lib/experiments/x'
    opt, _ = options.parse_options('/opt/lib')
    assert opt['path']['experiments_root'] == str(tmp_path / 'experiments' / 'x')


def test_scripts_end_with_one_line(run, tmp_path):
    """No traceback, exit code 1: from the module and from a script that imports BasicSR."""
    for module in ('basicsr.train', 'basicsr.test'):
        result = run('python', '-W', 'ignore', '-m', module, '-opt', 'missing.yml', cwd=tmp_path, check=False)
        assert result.returncode == 1
        assert result.stderr.strip() == 'error: -opt missing.yml: No such file or directory.'
