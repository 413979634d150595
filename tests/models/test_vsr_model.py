"""The model class by itself; tests/commands runs it through the toolbox's scripts."""

import copy
import csv
import errno
import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from basicsr.archs import build_network
from basicsr.models import build_model
from basicsr.train import load_resume_state
from basicsr.utils import tensor2img
from torch import nn

from basicsr_plugins.archs.bicubic_arch import Bicubic
from basicsr_plugins.errors import InputError, RunError
from basicsr_plugins.metrics.tof import calculate_tof
from basicsr_plugins.models import shipped_weights, training, vsr_model
from basicsr_plugins.models.shipped_weights import save_shipped
from basicsr_plugins.models.vsr_model import frame_metric

PSNR = {'type': 'calculate_psnr', 'crop_border': 0}
SMALL_EFAR = {'type': 'EFAR', 'num_feat': 4, 'num_block': 1, 'dilations': [1, 2]}


class Clips(torch.utils.data.Dataset):
    """Clips `a` and `b` of 2 and 3 frames of 16x16, with GT."""

    def __init__(self, with_gt=True):
        self.opt = {'name': 'Clips'}
        self.with_gt = with_gt

    def __len__(self):
        return 2

    def __getitem__(self, index):
        torch.manual_seed(index)
        item = {
            'lq': torch.rand(2 + index, 3, 16, 16),
            'folder': 'ab'[index],
            'frames': ['f0', 'f1', 'f2'][: 2 + index],
        }
        if self.with_gt:
            item['gt'] = torch.rand(2 + index, 3, 64, 64)
        return item


@pytest.fixture
def options(tmp_path):
    """Options as `parse_options` gives them, with their folders made."""
    paths = {name: tmp_path / name for name in ('models', 'training_states', 'visualization')}
    for path in paths.values():
        path.mkdir()
    return {
        'name': 'experiment',
        'model_type': 'VSRModel',
        'num_gpu': 0,
        'is_train': True,
        'dist': False,
        'rank': 0,
        'world_size': 1,
        'scale': 4,
        'auto_resume': False,
        'root_path': str(tmp_path),
        'datasets': {'train': {}},
        'network_g': dict(SMALL_EFAR),
        'path': {**{name: str(path) for name, path in paths.items()}, 'log': str(tmp_path), 'resume_state': None},
        'train': {
            'optim_g': {'type': 'Adam', 'lr': 1e-3},
            'scheduler': {'type': 'CosineAnnealingRestartLR', 'periods': [100], 'restart_weights': [1]},
            'total_iter': 100,
            'pixel_opt': {'type': 'CharbonnierLoss', 'eps': 1e-16},
        },
        'val': {
            'val_freq': 1,
            'save_img': False,
            'metrics': {
                'psnr': {'type': 'calculate_psnr', 'crop_border': 0},
                'ssim': {'type': 'calculate_ssim', 'crop_border': 0},
            },
        },
    }


def train(model, first, last):
    """Iterations `first` to `last` on data that depend on the iteration only; the losses."""
    losses = []
    for current_iter in range(first, last + 1):
        torch.manual_seed(current_iter)
        model.update_learning_rate(current_iter)
        model.feed_data({'lq': torch.rand(1, 2, 3, 64, 64), 'gt': torch.rand(1, 2, 3, 256, 256)})
        model.optimize_parameters(current_iter)
        losses.append(model.get_current_log()['l_pix'])
    return losses


def flow_weights(model):
    return torch.cat([p.detach().flatten() for p in model.net_g.spynet.parameters()])


def test_training_lowers_the_loss_and_counts_flow_apart(options):
    options['train'].update(flow_lr_mul=0.125, ema_decay=0.9)
    model = build_model(options)
    assert model.get_current_learning_rate() == [1e-3, 0.125e-3]
    assert len(model.optimizer_g.param_groups[1]['params']) == len(list(model.net_g.spynet.parameters()))
    before = flow_weights(model).clone()
    losses = train(model, 1, 8)
    assert losses[-1] < losses[0]
    assert not torch.equal(flow_weights(model), before)


def test_flow_stays_fixed_until_fix_flow_and_through_a_resume(options):
    options['train'].update(fix_flow=4, flow_lr_mul=0.5)
    model = build_model(options)
    start = flow_weights(model).clone()
    train(model, 1, 2)
    assert torch.equal(flow_weights(model), start)
    model.save(epoch=0, current_iter=2)

    options['path']['resume_state'] = str(model.opt['path']['training_states']) + '/2.state'
    state = load_resume_state(options)
    resumed = build_model(options)
    resumed.resume_training(state)
    train(resumed, 3, 3)
    assert torch.equal(flow_weights(resumed), start)  # the toolbox trains it from here on
    train(resumed, 4, 4)
    assert not torch.equal(flow_weights(resumed), start)


def test_resumed_training_equals_uninterrupted_training(options):
    options['train'].update(ema_decay=0.5)
    whole = build_model(options)
    losses = train(whole, 1, 3)
    whole.save(epoch=0, current_iter=3)
    losses += train(whole, 4, 6)

    options['auto_resume'] = True
    state = load_resume_state(options)
    assert (state['epoch'], state['iter']) == (0, 3)
    assert options['datasets']['train']['resume'] == {'epoch': 0, 'iter': 3}
    resumed = build_model(options)
    resumed.resume_training(state)
    assert train(resumed, 4, 6) == losses[3:]
    for name, value in whole.net_g_ema.state_dict().items():
        assert torch.equal(resumed.net_g_ema.state_dict()[name], value), name


def test_validation_logs_every_clip_and_their_average(options, tmp_path):
    model = build_model(options)
    options['val']['metrics']['a, b'] = dict(options['val']['metrics']['psnr'])
    written = {}
    writer = type('Writer', (), {'add_scalar': lambda _, tag, value, step: written.update({(tag, step): value})})()
    loader = torch.utils.data.DataLoader(Clips())
    model.validation(loader, 7, writer)
    assert model.net_g.training
    model.validation(loader, 7, None)
    assert [path.name for path in tmp_path.glob('*.csv')] == ['metrics.csv']  # whose header has a quoted name

    net, dataset = model.net_g.eval(), Clips()
    with torch.no_grad():
        outputs = [net(dataset[i]['lq'][None])[0].clamp(0, 1) for i in range(2)]
    expected = {}
    for clip, output, item in zip('ab', outputs, dataset):
        error = ((output * 255).round() - (item['gt'] * 255).round()).double().square().mean(dim=(1, 2, 3))
        expected[clip] = (10 * torch.log10(255**2 / error)).mean().item()
    expected['average'] = (expected['a'] + expected['b']) / 2

    rows = list(csv.DictReader((tmp_path / 'metrics.csv').open()))
    assert [(row['dataset'], row['iter'], row['clip']) for row in rows] == [('Clips', '7', c) for c in expected] * 2
    for row in rows:
        assert float(row['psnr']) == pytest.approx(expected[row['clip']], abs=1e-4)
    assert written['metrics/Clips/psnr', 7] == pytest.approx(expected['average'], abs=1e-4)
    assert written['metrics/Clips/psnr/b', 7] == pytest.approx(expected['b'], abs=1e-4)
    assert model.best_metric_results['Clips']['psnr'] == {
        'better': 'higher',
        'val': pytest.approx(expected['average'], abs=1e-4),
        'iter': 7,
    }


def test_two_validation_sets_do_not_mix(options):
    model = build_model(options)
    first, second = Clips(), Clips()
    second.opt = {'name': 'Other'}
    second.__class__ = type(
        'Reversed', (Clips,), {'__getitem__': lambda self, i: {**Clips.__getitem__(self, i), 'folder': 'xy'[i]}}
    )
    model.validation(torch.utils.data.DataLoader(first), 1, None)
    model.validation(torch.utils.data.DataLoader(second), 1, None)
    assert list(model.metric_results) == ['x', 'y']
    assert set(model.best_metric_results) == {'Clips', 'Other'}


def test_saves_images_while_training_and_without_gt(options):
    model = build_model(options)
    model.validation(torch.utils.data.DataLoader(Clips(with_gt=False)), 5, None, save_img=True)
    folder = os.path.join(options['path']['visualization'], 'Clips', 'b')
    assert sorted(os.listdir(folder)) == ['f0_5.png', 'f1_5.png', 'f2_5.png']
    with torch.no_grad():
        output = model.net_g.eval()(Clips()[1]['lq'][None])[0, 2].clamp(0, 1)
    expected = (output * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(cv2.imread(os.path.join(folder, 'f2_5.png'))[..., ::-1], expected)


def test_ema_weights_are_validated(options):
    options['train']['ema_decay'] = 0.999
    model = build_model(options)
    lq = torch.rand(1, 2, 3, 16, 16)
    model.feed_data({'lq': lq})
    nn.init.constant_(model.net_g_ema.upsampler.conv_last.bias, 0.25)
    model.test()
    with torch.no_grad():
        assert torch.equal(model.output, model.net_g_ema(lq))


def test_flip_seq_and_center_frame_only(options):
    model = build_model(options)
    lq = torch.rand(1, 3, 3, 16, 16)
    options['val'] = model.opt['val'] = {**options['val'], 'flip_seq': True}
    model.feed_data({'lq': lq})
    model.test()
    with torch.no_grad():
        both = model.net_g.eval()(torch.cat([lq, lq.flip(1)], 1))
    torch.testing.assert_close(model.output, (both[:, :3] + both[:, 3:].flip(1)) / 2)
    model.opt['val'] = {**options['val'], 'center_frame_only': True}
    whole = model.output
    model.test()
    torch.testing.assert_close(model.output, whole[:, 1:2])


OTHER_KINDS = {
    'MSFFN': {'num_feat': 8, 'num_frame': 3, 'num_extract_block': 1, 'num_mdrb': 1, 'num_block': 1, 'deform_groups': 2},
    'EDVR': {'num_feat': 8, 'num_frame': 3, 'deformable_groups': 2, 'num_extract_block': 1, 'num_reconstruct_block': 1},
    'TOFlow': {},
    'EDSR': {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1},
}


@pytest.mark.parametrize('gt_frames', ['all', 'centre'])
@pytest.mark.parametrize('network', sorted(OTHER_KINDS))
def test_networks_of_windows_and_of_images_train(options, network, gt_frames):
    """With GT of every frame (REDS) or of the centre frame (Vimeo-90K); the loss is that of the network's output."""
    options['network_g'] = {'type': network, **OTHER_KINDS[network]}
    t = 7 if network == 'TOFlow' else 3
    model = build_model(options)
    lq, gt = torch.rand(2, t, 3, 16, 16), torch.rand(2, t, 3, 64, 64)
    center_gt = gt[:, t // 2]
    net = copy.deepcopy(model.net_g)
    if network == 'EDSR':
        expected = (net(lq.flatten(0, 1)), gt.flatten(0, 1)) if gt_frames == 'all' else (net(lq[:, t // 2]), center_gt)
    elif network == 'TOFlow':
        expected = net(Bicubic(4)(lq)), center_gt
    else:
        expected = net(lq), center_gt
    model.feed_data({'lq': lq, 'gt': gt if gt_frames == 'all' else center_gt})
    model.optimize_parameters(1)
    loss = (expected[0] - expected[1]).abs().mean().item()
    assert model.get_current_log()['l_pix'] == pytest.approx(loss, rel=1e-5)
    changed = [not torch.equal(a, b) for a, b in zip(model.net_g.parameters(), net.parameters())]
    assert sum(changed) > len(changed) / 2


@pytest.mark.parametrize('end', ['close', 'exception'])
def test_training_goes_on_however_restoring_ends(options, end):
    options['network_g'] = {'type': 'EDSR', **OTHER_KINDS['EDSR']}
    model = build_model(options)
    frames = [torch.rand(3, 8, 8), torch.rand(3, 8, 8) if end == 'close' else 'no frame']
    restored = model.restore(frames)
    next(restored)
    assert not model.net_g.training
    if end == 'close':
        restored.close()
    else:
        with pytest.raises(
            InputError, match=r'EDSR does not restore a clip of 2 frames \(AttributeError in restoration'
        ):
            next(restored)
    assert model.net_g.training


@pytest.mark.parametrize(
    ('network', 'reason'),
    [
        ({'type': 'MSRResNet', 'num_in_ch': 1, 'num_out_ch': 3, 'num_feat': 4}, 'RuntimeError in conv.py, line'),
        ({'type': 'SpyNet'}, 'TypeError in '),
        ({'type': 'VGGStyleDiscriminator', 'num_in_ch': 3, 'num_feat': 4}, ' in '),
    ],
)
def test_a_network_that_takes_no_batch(options, network, reason):
    """One sentence with the line that failed: in training, and where it restores."""
    options['network_g'] = network
    model = build_model(options)
    with pytest.raises(InputError, match=r'a batch of LQ \(.*, 64, 64\) and GT \(.*, 256, 256\) does not go') as told:
        train(model, 1, 1)
    assert reason in str(told.value)
    with pytest.raises(InputError, match=f'{network["type"]} does not restore a clip of 2 frames'):
        list(model.restore(torch.rand(2, 3, 8, 8)))


def test_errors_of_a_users_own_network_are_left_alone(options, monkeypatch):
    """Whoever writes one reads tracebacks; and a network that has trained once is not refused for its options."""
    model = build_model(options)
    monkeypatch.setattr(type(model.net_g), '__module__', 'theirs')
    model.net_g.forward = None
    with pytest.raises(TypeError):
        train(model, 1, 1)
    monkeypatch.undo()
    model = build_model(options)
    train(model, 1, 1)
    model.net_g.forward = None
    with pytest.raises(TypeError):
        train(model, 1, 1)


class LongerClip(Clips):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        torch.manual_seed(index)
        return {'lq': torch.rand(7, 3, 16, 16), 'gt': torch.rand(7, 3, 64, 64), 'folder': 'a'}


def test_inner_frames(options):
    """Metrics without the first and the last two frames; those of motion start at the second that counts."""
    options['network_g'] = {'type': 'Bicubic'}
    options['val']['metrics']['tof'] = {'type': 'calculate_tof', 'crop_border': 0}
    model = build_model({**options, 'is_train': False})
    model.validation(torch.utils.data.DataLoader(LongerClip()), 'all', None)
    every = model.metric_results['a']
    model.opt['val'] = {**options['val'], 'inner_frames': True}
    model.validation(torch.utils.data.DataLoader(LongerClip()), 'inner', None)
    inner = model.metric_results['a']
    assert every.shape == (7, 3)
    assert torch.equal(inner[:, :2], every[2:5, :2])
    assert inner[0, 2].isnan()
    assert torch.equal(inner[1:, 2], every[3:5, 2])
    with pytest.raises(InputError, match='inner_frames: none of the 2 frames of a is left'):
        model.validation(torch.utils.data.DataLoader(Clips()), 'inner', None)


def test_windows_are_validated_with_the_padding_of_the_set(options):
    options['network_g'] = {'type': 'MSFFN', **OTHER_KINDS['MSFFN'], 'attention': False}
    model = build_model(options)
    for parameter in model.net_g.parameters():  # so that supporting frames show
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    lq = Clips()[1]['lq']
    images = {}
    for padding in (None, 'reflection_circle', 'replicate'):
        loader = torch.utils.data.DataLoader(Clips())
        loader.dataset.opt['padding'] = padding
        model.validation(loader, 5, None, save_img=True)
        folder = os.path.join(options['path']['visualization'], 'Clips', 'b')
        images[padding] = cv2.imread(os.path.join(folder, 'f0_5.png'))[..., ::-1]
        window = lq[[2 if padding != 'replicate' else 0, 0, 1]]
        with torch.no_grad():
            output = model.net_g.eval()(window[None])[0].clamp(0, 1)
        expected = (output * 255).round().permute(1, 2, 0).numpy()
        assert np.abs(images[padding] - expected).max() <= 1  # rounding: features are extracted frame by frame
    assert np.array_equal(images[None], images['reflection_circle'])
    assert np.abs(images[None].astype(int) - images['replicate']).max() > 1


def test_metrics_of_motion_are_means_over_frame_pairs(options):
    options['val']['metrics']['tof'] = {'type': 'calculate_tof', 'crop_border': 2}
    model = build_model(options)
    model.validation(torch.utils.data.DataLoader(Clips()), 1, None, save_img=True)
    with open(os.path.join(options['path']['log'], 'metrics.csv')) as file:
        rows = {row['clip']: row for row in csv.DictReader(file)}
    for index, clip in enumerate('ab'):
        folder = os.path.join(options['path']['visualization'], 'Clips', clip)
        restored = [cv2.imread(os.path.join(folder, name)) for name in sorted(os.listdir(folder))]
        gt = [tensor2img(frame) for frame in Clips()[index]['gt']]
        assert float(rows[clip]['tof']) == pytest.approx(calculate_tof(restored, gt, crop_border=2), abs=1e-5)


def test_a_window_of_another_length_is_refused(options):
    options['network_g'] = {'type': 'MSFFN', **OTHER_KINDS['MSFFN']}
    model = build_model(options)
    with pytest.raises(InputError, match='MSFFN takes windows of 3 frames, but the samples have 5'):
        model.feed_data({'lq': torch.rand(1, 5, 3, 8, 8), 'gt': torch.rand(1, 3, 32, 32)})


def test_failed_save_stops_and_leaves_the_old_file(options, monkeypatch):
    model = build_model(options)
    model.save(epoch=0, current_iter=5)
    path = Path(options['path']['models']) / 'net_g_5.pth'
    before = path.read_bytes()

    def full_disk(data, file):
        file.write(b'half')
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(torch, 'save', full_disk)
    nn.init.zeros_(model.net_g.upsampler.conv_last.weight)
    with pytest.raises(RunError, match=r'net_g_5.pth: it takes \d+\.\d MiB, but the disk of .*models is full \('):
        model.save(epoch=0, current_iter=5)
    assert path.read_bytes() == before
    assert sorted(os.listdir(options['path']['models'])) == ['net_g_5.pth']


def test_saved_files_load_in_the_toolbox(options):
    options['train']['ema_decay'] = 0.9
    model = build_model(options)
    train(model, 1, 2)
    model.save(epoch=-1, current_iter=-1)
    assert os.listdir(options['path']['training_states']) == []  # `latest` has no state
    saved = torch.load(os.path.join(options['path']['models'], 'net_g_latest.pth'), weights_only=True)
    assert set(saved) == {'params', 'params_ema'}
    options['path'].update(pretrain_network_g=os.path.join(options['path']['models'], 'net_g_latest.pth'))
    options['path'].update(param_key_g='params_ema')
    other = build_model({**options, 'is_train': False})
    for name, value in model.net_g_ema.state_dict().items():
        assert torch.equal(other.net_g.state_dict()[name], value)


@pytest.fixture
def three_states(options):
    """An experiment with states 1, 2 and 3."""
    model = build_model(options)
    for current_iter in (1, 2, 3):
        train(model, current_iter, current_iter)
        model.save(epoch=0, current_iter=current_iter)
    options['auto_resume'] = True
    return options


@pytest.mark.parametrize('value', ['a', -1, None])
def test_a_state_without_a_position_is_refused(three_states, value):
    path = Path(three_states['path']['training_states']) / '3.state'
    torch.save({'epoch': value, 'iter': 3, 'optimizers': [], 'schedulers': []}, path)
    assert load_resume_state(three_states)['iter'] == 2


def test_a_state_of_another_optimizer_is_refused(three_states):
    three_states['train']['optim_g'] = {'type': 'SGD', 'lr': 1e-3}
    state = load_resume_state(three_states)
    with pytest.raises(InputError, match='the training state is of another optimizer than SGD'):
        build_model(three_states).resume_training(state)


def test_an_output_of_another_shape_is_refused(options):
    """Where the loss would compare one channel with three."""
    options['network_g'] = {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 1, 'num_feat': 4, 'num_block': 1}
    with pytest.raises(InputError, match=r'network_g makes \(2, 1, 256, 256\) where GT is \(2, 3, 256, 256\)'):
        train(build_model(options), 1, 1)


def cut(path):
    with open(path, 'r+b') as file:
        file.truncate(os.path.getsize(path) // 2)


def test_auto_resume_skips_what_does_not_load(three_states, capsys):
    paths = three_states['path']
    cut(os.path.join(paths['training_states'], '3.state'))
    os.remove(os.path.join(paths['models'], 'net_g_2.pth'))
    assert load_resume_state(three_states)['iter'] == 1
    said = capsys.readouterr().out
    assert '--auto_resume skips 3.state' in said
    assert '3.state does not load' in said
    assert '--auto_resume skips 2.state: there is no file' in said
    assert paths['pretrain_network_g'] == os.path.join(paths['models'], 'net_g_1.pth')


@pytest.mark.parametrize('file', ['training_states/3.state', 'models/net_g_3.pth'])
def test_auto_resume_skips_what_is_damaged(file, three_states, capsys):
    """One bit, by which PyTorch would read another weight."""
    folder, name = file.split('/')
    path = Path(three_states['path'][folder]) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert load_resume_state(three_states)['iter'] == 2
    assert f'{name} is damaged' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('section', 'changes', 'message'),
    [
        ('network_g', {'type': 'DUF', 'num_layer': 20}, r'a network cannot be used \(\w+ in duf_arch.py, line \d+: '),
        (
            'optim_g',
            {'type': 'SGD', 'lr': 0.1, 'nesterov': True},
            r'the optimizer cannot be used \(.*: Nesterov',
        ),
        ('optim_g', {'foreach': True, 'fused': True}, r'the optimizer cannot be used \(`fused` and `foreach`'),
        ('perceptual_opt', {'type': 'L1Loss', 'loss_weight': 1.0}, "no perceptual loss 'L1Loss'"),
        ('train', {'lq_interval': 2}, 'lq_interval is 2, but EFAR enlarges the frame rate 1 times; set it to 1'),
    ],
)
def test_options_that_are_no_model(section, changes, message, options):
    """Each of a right type and range: what only the class knows."""
    if section == 'network_g':
        options['network_g'] = changes
    elif section == 'train':
        options['datasets'] = {'train': {**options.get('datasets', {}).get('train', {}), **changes}}
    else:
        options['train'][section] = {**(options['train'].get(section) or {}), **changes}
    with pytest.raises(InputError, match=message):
        build_model(options)


def test_a_metric_that_does_not_take_such_frames():
    frame = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(InputError, match=r'calculate_niqe is not computed of a frame of 64x64 \(.* in .*\.py, line'):
        frame_metric((frame, frame), None, {'type': 'calculate_niqe', 'crop_border': 0})


def test_a_metric_that_is_no_number():
    frames = np.zeros((20, 30, 3), np.uint8), np.ones((20, 30, 3), np.uint8)
    metric = {'type': 'calculate_psnr', 'crop_border': 4}
    assert math.isfinite(frame_metric(frames, None, metric))
    with pytest.raises(InputError, match='calculate_psnr of a frame of 30x20 is no number; is crop_border too large'):
        frame_metric(frames, None, {**metric, 'crop_border': 10})


def test_auto_resume_does_not_start_over_when_nothing_loads(three_states):
    for current_iter in (1, 2, 3):
        cut(os.path.join(three_states['path']['training_states'], f'{current_iter}.state'))
    with pytest.raises(InputError, match=r'none of the 3 states in .* loads; .*3.state does not load'):
        load_resume_state(three_states)


def test_auto_resume_without_states_starts_afresh(options):
    options['auto_resume'] = True
    assert load_resume_state(options) is None


def test_state_with_code_in_it_is_refused(three_states):
    path = os.path.join(three_states['path']['training_states'], '4.state')
    torch.save({'epoch': 0, 'iter': 4, 'optimizers': [], 'schedulers': [], 'code': os.system}, path)
    three_states.update(auto_resume=False)
    three_states['path']['resume_state'] = path
    with pytest.raises(InputError, match=r'4.state does not load'):
        load_resume_state(three_states)


def test_toolbox_resume_fails_without_cuda(three_states):
    if torch.cuda.is_available():
        pytest.skip('shows what breaks without CUDA; this has CUDA')
    three_states.update(auto_resume=False)
    three_states['path']['resume_state'] = os.path.join(three_states['path']['training_states'], '3.state')
    with pytest.raises((RuntimeError, AssertionError)):
        load_resume_state.__wrapped__(three_states)
    assert load_resume_state(three_states)['iter'] == 3


@pytest.mark.parametrize(
    ('section', 'change', 'message'),
    [
        ('train', {'fix_flwo': 5}, "train: there is no key 'fix_flwo'; did you mean 'fix_flow'?"),
        ('val', {'metric': {}}, "val: there is no key 'metric'; did you mean 'metrics'?"),
        ('network_g', {'num_fea': 5}, "network_g: there is no key 'num_fea'; did you mean 'num_feat'?"),
        ('network_g', {'type': 'EFARR'}, "network_g: there is no network 'EFARR' in the registry"),
        (
            'path',
            {'pretrain_network_g': 'nowhere.pth'},
            'there is no checkpoint nowhere.pth, and no shipped weights have that name',
        ),
        ('path', {'pretrain_netwrok_g': 'x.pth'}, "'pretrain_netwrok_g'; did you mean 'pretrain_network_g'?"),
    ],
)
def test_wrong_options(options, section, change, message):
    options[section].update(change)
    with pytest.raises(InputError) as caught:
        build_model(options)
    assert message in str(caught.value)


def test_scale_of_the_network(options):
    with pytest.raises(InputError, match='scale is 2, but EFAR upscales by 4'):
        build_model({**options, 'scale': 2})


def test_best_metrics_are_known_again_after_a_resume(options):
    """Validation comes after saving, so the state of the best iteration does not hold them."""
    model = build_model(options)
    loader = torch.utils.data.DataLoader(Clips())
    for current_iter in (1, 2):
        train(model, current_iter, current_iter)
        model.save(epoch=0, current_iter=current_iter)
        model.validation(loader, current_iter, None)
    options['auto_resume'] = True
    resumed = build_model(options)
    resumed.resume_training(load_resume_state(options))
    for name, best in model.best_metric_results['Clips'].items():
        assert resumed.best_metric_results['Clips'][name] == {**best, 'val': pytest.approx(best['val'], abs=1e-5)}


def test_checkpoint_of_another_network(options, tmp_path):
    torch.save({'params': {'conv.weight': torch.zeros(1)}}, tmp_path / 'other.pth')
    options['path']['pretrain_network_g'] = str(tmp_path / 'other.pth')
    with pytest.raises(InputError, match=r'other.pth does not load into EFAR \(.*Missing key'):
        build_model(options)


@pytest.mark.parametrize('by_name', [True, False])
def test_a_training_begins_with_shipped_weights(options, tmp_path, monkeypatch, by_name):
    weights = build_network(dict(SMALL_EFAR)).state_dict()
    file = tmp_path / 'small.safetensors'
    save_shipped(SMALL_EFAR, weights, file, {'licence': 'none', 'training': 'none'})
    monkeypatch.setattr(shipped_weights, 'FOLDER', tmp_path)
    options['path']['pretrain_network_g'] = 'small' if by_name else str(file)
    model = build_model({**options, 'network_g': dict(SMALL_EFAR)})
    for name, value in model.net_g.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-6)  # float16's


def test_weights_of_other_arguments_are_said(options, tmp_path, monkeypatch):
    """Those that change no shape: such weights load, and mean something else."""
    said = []
    logger = type('Logger', (), {'warning': lambda _, text: said.append(text), 'info': lambda *_: None})()
    monkeypatch.setattr(training, 'get_root_logger', lambda: logger)
    network = {'type': 'RLSP', 'num_feat': 4, 'num_conv': 1, 'luma_only': False, 'bilinear_chroma': True}
    file = tmp_path / 'small.safetensors'
    save_shipped(network, build_network(dict(network)).state_dict(), file, {'licence': 'none', 'training': 'none'})
    options['path']['pretrain_network_g'] = str(file)
    del network['luma_only']  # as it is without saying so
    build_model({**options, 'network_g': dict(network)})
    assert not said
    del network['bilinear_chroma']
    build_model({**options, 'network_g': network})
    assert said == [f'network_g: the weights in {file} are of a network with bilinear_chroma: true.']


def test_safetensors_that_fit_in_part(options, tmp_path):
    """With strict_load_g: false a layer of another shape stays as it is, and the others are loaded."""
    weights = build_network({**SMALL_EFAR, 'upsample_feat': 8}).state_dict()
    safetensors.torch.save_file(weights, tmp_path / 'wider.safetensors')
    options['path'].update(pretrain_network_g=str(tmp_path / 'wider.safetensors'), strict_load_g=False)
    state = build_model({**options, 'network_g': dict(SMALL_EFAR)}).net_g.state_dict()
    fits = {name: value.shape == weights[name].shape for name, value in state.items()}
    assert 0 < sum(fits.values()) < len(fits)
    assert all(torch.equal(state[name], weights[name]) for name in state if fits[name])


def test_random_weights_in_a_test_are_said(options, monkeypatch):
    said = []
    logger = type('Logger', (), {'warning': lambda _, text: said.append(text), 'info': lambda *_: None})()
    monkeypatch.setattr(vsr_model, 'get_root_logger', lambda: logger)
    build_model({**options, 'is_train': False})
    assert said == ['path: pretrain_network_g is not set: this tests a network with random weights.']
    build_model({**options, 'is_train': False, 'network_g': {'type': 'Bicubic'}})
    assert len(said) == 1


def test_a_network_of_twice_the_frame_rate(options):
    """Every second frame goes in, all are compared; samples and clips of other lengths stop with one sentence."""
    small = {'num_feat': 8, 'num_extract_block': 1, 'num_block': 1, 'deform_groups': 2}
    options['network_g'] = {'type': 'ZoomingSlowMo', **small}
    model = build_model(options)
    torch.manual_seed(0)
    lq, gt = torch.rand(1, 2, 3, 16, 16), torch.rand(1, 3, 3, 64, 64)
    model.feed_data({'lq': lq, 'gt': gt})
    model.optimize_parameters(1)
    assert model.output.shape == gt.shape
    assert model.get_current_log()['l_pix'] == pytest.approx(float((model.output - gt).abs().mean()), rel=1e-5)
    with pytest.raises(InputError, match=r'makes 3 frames of 2, but .* GT of 2; set lq_interval .* to 2'):
        model.feed_data({'lq': lq, 'gt': gt[:, :2]})

    clip = {'lq': lq[0], 'gt': gt[0], 'folder': 'a', 'frames': ['f0', 'f1', 'f2']}
    model.metric_results = {}
    model._validate_clip(clip, {'name': 'Clips'}, 1, save_img=True)
    with torch.no_grad():
        output = model.net_g.eval()(lq)[0]
    expected = [frame_metric((tensor2img(o), tensor2img(g)), None, PSNR) for o, g in zip(output, gt[0])]
    assert model.metric_results['a'][:, 0].tolist() == pytest.approx(expected)
    images = Path(options['path']['visualization'], 'Clips', 'a')
    assert sorted(path.name for path in images.iterdir()) == ['f0_1.png', 'f1_1.png', 'f2_1.png']
    with pytest.raises(InputError, match='makes 3 frames of the 2 of a, but there are 2 of GT; set lq_interval to 2'):
        model._validate_clip({**clip, 'gt': gt[0, :2]}, {'name': 'Clips'}, 1, save_img=False)
