"""The single-image networks in VSRModel, by their option files made small: they train, validate, test and upscale."""

import copy
import runpy
from pathlib import Path

import pytest
import torch
from basicsr.archs import build_network
from basicsr.models import build_model
from torch.utils.data import DataLoader

from basicsr_plugins.compat.options import read_options
from basicsr_plugins.errors import InputError
from basicsr_plugins.inference import UpscaleSettings, upscale_frames
from basicsr_plugins.models.restoration import restore_frames
from basicsr_plugins.upscaling import load_network

from ..conftest import PROJECT
from .test_vsr_model import Clips, options  # noqa: F401  (a fixture)

SMALL = {
    'SRCNN': {'num_feat': [8, 4]},
    'FSRCNN': {'num_feat': 8, 'num_shrunk': 4},
    'ESPCN': {'num_feat': 8},
    'VDSR': {'num_feat': 8, 'num_conv': 3},
    'DRCN': {'num_feat': 8, 'num_recursion': 3},
    'DRRN': {'num_feat': 8, 'num_unit': 2},
    'LapSRN': {'num_feat': 8, 'num_conv': 2},
    'SRDenseNet': {'num_growth': 2, 'num_conv': 2, 'num_block': 2, 'num_feat': 8},
    'REDNet': {'num_feat': 8, 'num_conv': 3},
    'RDN': {'num_feat': 8, 'num_block': 2, 'num_conv': 2, 'num_growth': 4},
    'SESR': {'num_feat': 4, 'num_block': 2, 'num_expanded': 8},
    'LIIF': {'num_feat': 8, 'num_block': 1, 'num_hidden': 16},
    'MetaSR': {'num_feat': 8, 'num_block': 2, 'num_conv': 2, 'num_growth': 4},
}
OWN_LOSSES = {'DRCN': ['l_recursions'], 'LapSRN': ['l_levels']}
ITERATIONS = 8


def test_a_trained_sesr_is_collapsed_by_a_command(tmp_path, monkeypatch, capsys):
    """The file it writes loads into the small network, which gives the trained one's output."""
    arguments = 'num_feat=4,num_block=2,num_expanded=8'
    trained, small = tmp_path / 'trained.pth', tmp_path / 'small.pth'
    torch.manual_seed(1)
    net = build_network({'type': 'SESR', 'num_feat': 4, 'num_block': 2, 'num_expanded': 8})
    torch.save({'params': net.state_dict()}, trained)
    command = runpy.run_path(str(PROJECT / 'scripts' / 'collapse_sesr.py'))['main']
    monkeypatch.setattr('sys.argv', ['collapse_sesr.py', f'SESR:{arguments}@{trained}', '-o', str(small)])
    command()
    count = 25 * 4 + 2 * 9 * 16 + 25 * 4 * 16 + 2 * 4
    assert (
        f'{count} parameters, of {sum(parameter.numel() for parameter in net.parameters())}' in capsys.readouterr().out
    )
    collapsed = load_network(small, f'SESR:{arguments},collapsed=true', device='cpu')
    x = torch.rand(1, 1, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(collapsed(x), net(x), atol=1e-5, rtol=0)
    monkeypatch.setattr('sys.argv', ['collapse_sesr.py', 'ESPCN', '-o', str(small)])
    with pytest.raises(InputError, match='ESPCN is no SESR in its trained form with a checkpoint'):
        command()


def test_any_scale_is_of_a_run(options):  # noqa: F811
    options['network_g'] = {'type': 'LIIF', **SMALL['LIIF']}
    options['scale'] = 2.5
    (restored,) = restore_frames(build_model(copy.deepcopy(options)).net_g.eval(), torch.rand(1, 3, 6, 9))
    assert restored.shape == (3, 15, 23)
    options['datasets']['train']['scale_range'] = [2, 4]
    with pytest.raises(
        InputError, match=r'scale_range is \[2, 4\], but network_g: trained_scales, .* \[1, 4\]; set both'
    ):
        build_model(options)


@pytest.mark.parametrize('network', ['LIIF', 'MetaSR'])
def test_any_scale_of_each_sample(network, options):  # noqa: F811
    """The loss is that of each frame enlarged whole, by its sample's factor, at its sample's crop; in parts too."""
    options['network_g'] = {'type': network, **SMALL[network], 'trained_scales': [1, 4]}
    options['datasets']['train']['scale_range'] = [1, 4]
    options['train'].update(pixel_opt={'type': 'L1Loss'}, accumulate=2)
    torch.manual_seed(0)
    model = build_model(options)
    targets, starts, crop = [(11, 11), (19, 23)], [(0, 3), (10, 14)], 8
    place = torch.tensor(
        [[(8, side, 0, i, i + crop) for side, i in zip(*sample)] for sample in zip(targets, starts)]
    )  # (b, 2, 5)
    lq, gt = torch.rand(2, 3, 3, 8, 8), torch.rand(2, 3, 3, crop, crop)
    net = build_network(options['network_g'])
    net.load_state_dict(model.net_g.state_dict())
    with torch.no_grad():
        whole = [net(one, size=size) for one, size in zip(lq, targets)]
    crops = [y[..., i : i + crop, j : j + crop] for y, (i, j) in zip(whole, starts)]
    model.feed_data({'lq': lq, 'gt': gt, 'place': place})
    model.optimize_parameters(1)
    expected = (torch.stack(crops) - gt).abs().mean()
    assert model.get_current_log()['l_pix'] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize('network', SMALL)
def test_trains_validates_tests_and_upscales(network, options):  # noqa: F811
    """With the file's optimizer and losses the loss falls; the test repeats the validation; upscaling is the same."""
    file = read_options(PROJECT / 'options' / f'train_{network}_REDS.yml', network)
    options['network_g'] = {**file['network_g'], **SMALL[network]}
    options['train'] = file['train']
    options['train']['total_iter'] = ITERATIONS
    asked = copy.deepcopy(options)
    torch.manual_seed(0)
    model = build_model(options)
    lq = torch.rand(2, 1, 3, 8, 9)
    gt = lq.repeat_interleave(4, -1).repeat_interleave(4, -2)
    logs = []
    for number in range(1, ITERATIONS + 1):
        model.update_learning_rate(number)
        model.feed_data({'lq': lq, 'gt': gt})
        model.optimize_parameters(number)
        logs.append(dict(model.get_current_log()))
    assert list(logs[0]) == ['l_pix', *OWN_LOSSES.get(network, [])]
    assert sum(logs[-1].values()) < sum(logs[0].values())
    model.validation(DataLoader(Clips()), ITERATIONS, None)
    model.save(epoch=0, current_iter=ITERATIONS)

    path = Path(asked['path']['models']) / f'net_g_{ITERATIONS}.pth'
    tested = build_model({**asked, 'is_train': False, 'path': {**asked['path'], 'pretrain_network_g': str(path)}})
    tested.nondist_validation(DataLoader(Clips()), 'test', None, save_img=False)
    for clip, values in model.metric_results.items():
        assert values.isfinite().all()
        torch.testing.assert_close(tested.metric_results[clip], values, atol=1e-4, rtol=0)

    net, frames = tested.net_g.eval(), torch.rand(2, 3, 12, 10)
    with torch.no_grad():
        expected = torch.stack(list(restore_frames(net, frames)))
    assert torch.equal(torch.stack(list(upscale_frames(net, frames))), expected)
    tiled = upscale_frames(net, frames, UpscaleSettings(tile=8, tile_overlap=12))  # the overlap is the whole frame
    torch.testing.assert_close(torch.stack(list(tiled)), expected, atol=1e-5, rtol=1e-4)
