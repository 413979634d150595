"""Exported networks: ONNX Runtime and OpenVINO give PyTorch's frames at several sizes, and bad folders are refused."""

import json

import numpy as np
import pytest
import torch
from basicsr.archs import build_network

from basicsr_plugins.errors import InputError
from basicsr_plugins.inference.exported import Export, write_export
from basicsr_plugins.inference.runtimes import on_runtime
from tests.conftest import PROJECT

from .networks import Recurrent, build_edvr, build_msffn, film, small_network, upscale

onnx = pytest.importorskip('onnx', reason='onnx is not installed')
CLIPS = ((3, 16, 24), (2, 37, 20), (1, 24, 16))


SMALL_CLEANING = {'num_feat': 8, 'num_block': 1, 'num_clean_block': 1, 'refine_threshold': 0.0}


def with_spynet(name, **arguments):
    """Its flow is a fraction of a pixel to a few pixels."""
    torch.manual_seed(1)
    spynet = build_network({'type': 'SpyNet'})
    for module in spynet.basic_module:
        torch.nn.init.normal_(module.basic_module[-1].bias, std=0.3)
    return small_network(name, spynet=spynet, **arguments)


NETWORKS = {
    'EFAR': lambda: with_spynet('EFAR', deform_groups=2, max_residue_magnitude=5),
    'coupled': lambda: small_network('EFAR', coupled_propagation=True),
    'BasicVSR': lambda: with_spynet('BasicVSR'),
    'RealBasicVSR': lambda: build_network({'type': 'RealBasicVSR', **SMALL_CLEANING}).eval(),
    'RLSP': lambda: build_network({'type': 'RLSP', 'num_feat': 8, 'num_conv': 1, 'luma_only': True}).eval(),
    'RLSP of RGB': lambda: build_network(
        {'type': 'RLSP', 'num_feat': 8, 'num_conv': 1, 'bilinear_chroma': True}
    ).eval(),
    'RSDN': lambda: build_network({'type': 'RSDN', 'num_feat': 8, 'num_block': 1}).eval(),
    'MSFFN': build_msffn,
    'EDVR': build_edvr,
}


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Exports, made when they are asked for: name -> (network, folder)."""
    made = {}

    def make(name):
        if name not in made:
            net = NETWORKS[name]()
            folder = tmp_path_factory.mktemp(name)
            write_export(net, folder)
            made[name] = net, folder
        return made[name]

    return make


@torch.no_grad()
@pytest.mark.parametrize('runtime', ['onnxruntime', 'openvino'])
@pytest.mark.parametrize('name', NETWORKS)
def test_runtimes_give_the_frames_of_pytorch(folders, name, runtime):
    pytest.importorskip(runtime, reason=f'{runtime} is not installed')
    net, folder = folders(name)
    exported = on_runtime(Export(folder), runtime)
    for t, h, w in CLIPS:
        frames = film(t, h, w)
        difference = (upscale(exported, frames, segment=2) - upscale(net, frames, segment=2)).abs().max()
        assert difference < 1e-4


@pytest.mark.parametrize('name', ['EFAR', 'BasicVSR', 'MSFFN'])
def test_graphs_are_valid_and_standard(folders, name):
    _, folder = folders(name)
    manifest = json.loads((folder / 'manifest.json').read_text())
    for path in folder.glob('*.onnx'):
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(path)
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [('', manifest['opset'])]
        assert {node.domain for node in model.graph.node} == {''}
        assert path.name in manifest['sha256']


def test_steps_have_a_file_for_each_set_of_inputs(folders):
    """EFAR's passes look to both sides, BasicVSR's to the one that they come from."""
    for name, wanted in (
        ('EFAR', ['backward_step', 'backward_step_first', 'backward_step_last', 'backward_step_only']),
        ('BasicVSR', ['backward_step', 'backward_step_last']),
    ):
        _, folder = folders(name)
        assert sorted(path.stem for path in folder.glob('backward_step*.onnx')) == wanted
        manifest = json.loads((folder / 'manifest.json').read_text())
        assert (manifest['network'], manifest['scale'], manifest['input_type']) == (name, 4, 'sequence')
        inner = next(g for g in manifest['steps']['backward_step'] if g['file'] == 'backward_step.onnx')
        assert {'name': 'state', 'dtype': 'float32', 'shape': [1, 8, 'h', 'w']} in inner['inputs']
        assert inner['outputs'] == ['new_state']


def test_weights_are_stored_once(folders):
    net, folder = folders('BasicVSR')
    size = 4 * sum(parameter.numel() for parameter in net.parameters())
    assert 0.9 * size < (folder / 'weights.bin').stat().st_size <= size


@torch.no_grad()
@pytest.mark.parametrize('name', ['EFAR', 'RSDN'])
def test_the_example_of_the_docs(folders, run, tmp_path, name):
    pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    net, folder = folders(name)
    frames = film(3, 16, 20)
    np.save(tmp_path / 'lq.npy', (frames * 255).round().byte().permute(0, 2, 3, 1).numpy())
    example = PROJECT / 'docs' / 'examples' / 'run_onnx.py'
    run('python', example, folder, 'lq.npy', 'output.npy', cwd=tmp_path)
    output = torch.from_numpy(np.load(tmp_path / 'output.npy')).permute(0, 3, 1, 2) / 255
    assert (output - net(frames[None])[0].clamp(0, 1)).abs().max() < 0.51 / 255 + 1e-4
    code = [line for line in example.read_text().splitlines() if line and not line.startswith(('import', 'from'))]
    assert len(code) <= 30
    assert 'torch' not in example.read_text()


# ---------------------------------------------------------------------------- what is refused


class Whole(torch.nn.Module):
    """An image network with an operator that ONNX lacks."""

    input_type, scale = 'image', 1

    def forward(self, x):
        return torch.special.bessel_j0(x)


class FixedSize(torch.nn.Module):
    """An image network that computes with its size in Python."""

    input_type, scale = 'image', 1

    def forward(self, x):
        return x / int(x.size(2))


@pytest.mark.parametrize(
    ('net', 'message'),
    [
        (Recurrent(), 'has no steps'),
        (Whole(), 'operator aten::special_bessel_j0 is none of ONNX'),
        (FixedSize(), 'depends on the size of the frames'),
    ],
)
def test_networks_that_cannot_be_exported(tmp_path, net, message):
    with pytest.raises(InputError, match=message):
        write_export(net, tmp_path / 'export')
    assert not (tmp_path / 'export').exists()


def test_folders_that_are_no_export(folders, tmp_path):
    net, folder = folders('coupled')
    with pytest.raises(InputError, match=r'is no exported network: it has no manifest\.json'):
        Export(tmp_path)
    with pytest.raises(InputError, match='is not empty'):
        write_export(net, folder)
    copied = tmp_path / 'copied'
    write_export(net, copied)
    manifest = json.loads((copied / 'manifest.json').read_text())

    weights = (copied / 'weights.bin').read_bytes()
    (copied / 'weights.bin').write_bytes(weights[:-1] + b'x')
    with pytest.raises(InputError, match=r'weights\.bin is not the file that was exported'):
        Export(copied)
    (copied / 'weights.bin').unlink()
    with pytest.raises(InputError, match=r'weights\.bin is missing; export the network again'):
        Export(copied)
    (copied / 'manifest.json').write_text(json.dumps({**manifest, 'scale': 3}))
    with pytest.raises(InputError, match=r'manifest\.json is not the file that was exported; export the network again'):
        Export(copied)
    (copied / 'manifest.json').write_text(json.dumps({**manifest, 'format': 9}))
    with pytest.raises(InputError, match='is an export of version 9, but 1 is read here'):
        Export(copied)
    write_export(net, copied, force=True)
    assert Export(copied).identity
