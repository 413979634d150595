"""RealBasicVSR's two stages and Zooming Slow-Mo by the literal commands, made small; the second stage killed too."""

import re
import shutil

import pytest
import torch
import torchvision
import yaml

from basicsr_plugins.compat.options import SafeOptionLoader

from ..conftest import PROJECT
from .test_train_online import clips, write  # noqa: F401  (a fixture)
from .training import last_metrics, train_until_killed

REALBASICVSR = {'num_feat': 8, 'num_block': 1, 'num_clean_block': 1, 'spynet_path': None}
ZOOMING = {'num_feat': 8, 'num_extract_block': 1, 'num_block': 1, 'deform_groups': 2}
TRAININGS = {
    'RealBasicVSR_stage1': (REALBASICVSR, {'pix', 'clean'}),
    'RealBasicVSR_stage2': (REALBASICVSR, {'pix', 'clean', 'percep', 'gan', 'd_real', 'd_fake'}),
    'ZoomingSlowMo_REDS': (ZOOMING, {'pix'}),
}
TESTS = {'RealBasicVSR_UDM10': 'RealBasicVSR_stage2', 'ZoomingSlowMo_Vid4': 'ZoomingSlowMo_REDS'}


def shrink(opt, clips, network):  # noqa: F811
    for section in opt['datasets'].values():
        section.update(dataroot_gt=str(clips / 'GT'), io_backend={'type': 'disk'}, val_partition=['001'])
        if 'degradation' not in section:
            section['dataroot_lq'] = str(clips / 'BIx4')
    opt['network_g'].update(network)
    if 'train' not in opt:
        return
    train, sample = opt['train'], opt['datasets']['train']
    sample.update(gt_size=64, num_worker_per_gpu=0, batch_size_per_gpu=1, num_frame=3 if 'lq_interval' in sample else 2)
    if 'network_d' in opt:
        opt['network_d']['num_feat'] = 4
        train['perceptual_opt']['layer_weights'] = {'conv1_2': 0.1}
        train['optim_d']['lr'] = 1e-3
    train['optim_g']['lr'] = 1e-3
    train['total_iter'] = 20
    opt['logger'].update(print_freq=1, use_tb_logger=False, save_checkpoint_freq=5)


@pytest.fixture(scope='module')
def root(clips, run_forked, tmp_path_factory):  # noqa: F811
    """A folder in which all were trained for 20 iterations and then tested."""
    root = tmp_path_factory.mktemp('realworld')
    shutil.copytree(PROJECT / 'options', root / 'options')
    torch.manual_seed(0)
    with torch.device('meta'):
        vgg = torchvision.models.vgg19(weights=None).features.state_dict()
    vgg = {
        f'features.{name}': 0.1 * torch.randn(value.shape)
        if name[:2] in ('0.', '2.')
        else torch.zeros(1).expand(value.shape)
        for name, value in vgg.items()
    }
    weights = root / 'experiments' / 'pretrained_models'
    weights.mkdir(parents=True)
    torch.save(vgg, weights / 'vgg19-dcbb9e9d.pth')
    for name, (network, _) in TRAININGS.items():
        change(root, f'train_{name}', lambda opt, network=network: shrink(opt, clips, network))
        run_forked('-m', 'basicsr.train', '-opt', f'options/train_{name}.yml', cwd=root)
    for name, trained in TESTS.items():
        change(root, f'test_{name}', lambda opt, trained=trained: shrink(opt, clips, TRAININGS[trained][0]))
        run_forked('-m', 'basicsr.test', '-opt', f'options/test_{name}.yml', cwd=root)
    return root


def change(root, name, edit, to=None):
    opt = yaml.load((root / 'options' / f'{name}.yml').read_text(), Loader=SafeOptionLoader)
    edit(opt)
    write(root / 'options' / f'{to or name}.yml', opt)


def logged(experiment):
    """The losses of each iteration."""
    rows = [line for path in experiment.glob('train_*.log') for line in path.read_text().splitlines()]
    return [
        {name: float(value) for name, value in re.findall(r'l_(\w+): (\S+)', row)} for row in rows if 'l_pix' in row
    ]


@pytest.mark.parametrize('name', TRAININGS)
def test_trains_and_validates(root, name):
    losses = logged(root / 'experiments' / name)
    assert len(losses) == 20
    assert set(losses[0]) == TRAININGS[name][1]
    if name == 'ZoomingSlowMo_REDS':
        assert sum(row['pix'] for row in losses[-5:]) < sum(row['pix'] for row in losses[:5])
    assert (root / 'experiments' / name / 'models' / 'net_g_latest.pth').is_file()
    assert set(last_metrics(root / 'experiments' / name / 'metrics.csv')) == {'001', 'average'}


@pytest.mark.parametrize('name', TESTS)
def test_the_test_gives_the_metrics_of_the_last_validation(root, name):
    tested = last_metrics(root / 'results' / name / 'metrics.csv')
    trained = last_metrics(root / 'experiments' / TESTS[name] / 'metrics.csv')
    assert tested['001'] == pytest.approx(trained['001'], abs=5e-4 if name.startswith('Zoom') else 5e-5)
    images = sorted(path.name for path in (root / 'results' / name).rglob('*.png'))
    # Zooming Slow-Mo gets the frames 0, 2, 4, 6, 8 of 10: none is after the last
    assert images == [f'{i:08d}_{name}.png' for i in range(9 if name.startswith('Zoom') else 10)]


def test_the_second_stage_killed_and_resumed(root, start_forked, run_forked):
    """Both networks, the moving average and both optimizers' states are those of the run that was not disturbed."""

    def edit(opt):
        opt.update(name='killed')
        opt['train']['total_iter'] = 10  # the rate is the same all the time
        opt['datasets'].pop('val')
        opt['val'] = None

    change(root, 'train_RealBasicVSR_stage2', edit, to='killed')
    states = root / 'experiments' / 'killed' / 'training_states'
    command = ('-m', 'basicsr.train', '-opt', 'options/killed.yml')
    train_until_killed(start_forked, root, command, states / '5.state')
    assert not (states / '10.state').exists()
    run_forked(*command, '--auto_resume', cwd=root)
    for name in ('models/net_g_10.pth', 'models/net_d_10.pth', 'training_states/10.state'):
        killed, whole = (
            torch.load(root / 'experiments' / run / name, weights_only=True)
            for run in ('killed', 'RealBasicVSR_stage2')
        )
        assert_same(killed, whole)


def assert_same(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for pair in zip(one, other):
            assert_same(*pair)
    else:
        assert one == other
