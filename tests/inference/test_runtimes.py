"""Networks on OpenVINO and ONNX Runtime through every mode of the engine, and what is refused."""

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network

from basicsr_plugins.benchmark.evaluation import Protocol
from basicsr_plugins.benchmark.methods import parse_method
from basicsr_plugins.commands import main
from basicsr_plugins.errors import InputError
from basicsr_plugins.inference import sessions
from basicsr_plugins.inference.exported import Export, write_export
from basicsr_plugins.inference.precision import LARGEST_LOSS, loss_at
from basicsr_plugins.inference.runtimes import on_runtime
from basicsr_plugins.inference.sessions import OpenVINO
from basicsr_plugins.inference.tracing import trace
from basicsr_plugins.models.network_spec import spec_of
from basicsr_plugins.upscaling import load_network, network_identity
from basicsr_plugins.upscaling import upscale as upscale_film
from basicsr_plugins.video.images import ImageTarget

from .networks import Recurrent, build_msffn, film, small_network, upscale

pytest.importorskip('onnx', reason='onnx is not installed')


@pytest.fixture(scope='module', params=['openvino', 'onnxruntime'])
def runtime(request):
    pytest.importorskip(request.param, reason=f'{request.param} is not installed')
    return request.param


@pytest.fixture(scope='module')
def nets(runtime):
    """EFAR in PyTorch and on the runtime."""
    net = small_network('EFAR', coupled_propagation=True)
    return net, on_runtime(net, runtime)


MODES = {
    'exact': {'segment': 2},
    'stream': {'mode': 'stream', 'segment': 2, 'lookahead': 1},
    'tiles': {'tile': 16, 'tile_overlap': 4},
    'one frame': {'segment': 1, 'skip': 3},
}


@torch.no_grad()
@pytest.mark.parametrize('mode', MODES)
def test_modes_give_what_pytorch_gives(nets, mode):
    net, other = nets
    frames = torch.cat((film(3, 20, 28, seed=1), film(2, 20, 28, seed=7)))  # with a cut
    expected = upscale(net, frames, **MODES[mode])
    assert (upscale(other, frames, **MODES[mode]) - expected).abs().max() < 1e-4


@torch.no_grad()
def test_exact_is_one_pass_bit_for_bit(nets):
    _, other = nets
    frames = film(5, 18, 21)
    whole = upscale(other, frames, segment=5)
    assert torch.equal(other(frames[None])[0], whole)
    for segment in (1, 2, 3):
        assert torch.equal(upscale(other, frames, segment=segment), whole)
    assert torch.equal(upscale(other, frames, segment=2, skip=3), whole[3:])


@torch.no_grad()
def test_results_are_not_overwritten(nets):
    """A step's result stays as it is when the step runs again, at this size or another."""
    _, other = nets
    frame = film(1, 16, 20)[0][None]
    first = [other.extract(frame=frame) for _ in range(3)]
    other.extract(frame=film(1, 9, 30)[0][None])
    other.extract(frame=1 - frame)
    assert all(torch.equal(first[0], again) for again in first[1:])


@torch.no_grad()
@pytest.mark.parametrize('name', ['EFAR', 'BasicVSR'])
def test_positions_stay_precise_in_bfloat16(name):
    """Far motion, in wide frames: bfloat16 positions would be off by much of a pixel."""
    pytest.importorskip('openvino', reason='openvino is not installed')
    if torch.bfloat16 not in OpenVINO.dtypes():
        pytest.skip('this processor has no bfloat16')
    net = small_network(name)
    inputs = {
        'frame': torch.rand(1, 3, 16, 300),
        'feat': torch.rand(1, 8, 16, 300),
        'state': torch.rand(1, 8, 16, 300),
        'flow_to_next': torch.empty(1, 2, 16, 300).uniform_(-9.7, 9.7),
        'previous_feat': torch.zeros(1, 8, 16, 300),
        'flow_to_previous': torch.zeros(1, 2, 16, 300),
    }
    steps = spec_of(net).steps
    inputs = {what: inputs[what] for what in steps.step_inputs('backward_step')}
    expected = steps.backward_step(**inputs)
    result = on_runtime(net, 'openvino', torch.bfloat16).backward_step(**inputs)
    error = (result - expected).square().mean().sqrt() / expected.std()
    assert 1e-5 < error < 0.01


def moving_picture(t, h, w, step):
    """(t, 3, h, w): a smooth picture that moves to the left by `step` pixels a frame."""
    noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    picture = torch.nn.functional.interpolate(noise, scale_factor=5, mode='bicubic').clamp(0, 1)[0]
    return torch.stack([picture[:, :h, step * i : step * i + w] for i in range(t)])


@torch.no_grad()
def test_flow_in_bfloat16_is_right_to_hundredths_of_a_pixel():
    pytest.importorskip('openvino', reason='openvino is not installed')
    if torch.bfloat16 not in OpenVINO.dtypes():
        pytest.skip('this processor has no bfloat16')
    net = load_network('efar-s-bicubic')
    frames = dict(zip(('frame', 'other'), moving_picture(2, 80, 120, step=7).split(1)))
    expected = net.flow(**frames)
    error = (on_runtime(net, 'openvino', torch.bfloat16).flow(**frames) - expected).norm(dim=1)
    assert (expected[:, 0].median().abs() - 7).abs() < 0.2
    assert 0 < error.mean() < 0.05


@torch.no_grad()
@pytest.mark.parametrize('name', ['efar-s-bicubic', 'rt-video'])
def test_bfloat16_is_as_good_as_auto_asks(name):
    """Of the enlarged frame, to which a network adds its details, nothing is rounded; nor is the graph autocast."""
    pytest.importorskip('openvino', reason='openvino is not installed')
    if torch.bfloat16 not in OpenVINO.dtypes():
        pytest.skip('this processor has no bfloat16')
    net, frames = load_network(name), moving_picture(2, 36, 52, step=2)
    restored = upscale(on_runtime(net, 'openvino', torch.bfloat16), frames, dtype=torch.bfloat16)
    difference = restored - upscale(net, frames)
    assert loss_at(-10 * difference.square().mean().log10().item()) < LARGEST_LOSS


SIGNALLED = """
import os, signal
from basicsr_plugins.inference.sessions import OpenVINO
runtimes = [OpenVINO(), OpenVINO()]
known = [runtime._core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES') for runtime in runtimes]
while runtimes:
    del runtimes[0]  # the first one first
signal.signal(signal.SIGUSR1, lambda *_: print('handled'))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_signals_are_handled_after_networks_were_on_openvino(run, tmp_path):
    """Two cores of OpenVINO on a processor with AMX left no stack to handle them on."""
    pytest.importorskip('openvino', reason='openvino is not installed')
    assert run('python', '-c', SIGNALLED, cwd=tmp_path).stdout == 'handled\n'


@torch.no_grad()
def test_graphs_are_traced_without_autocast():
    net, frames = small_network('BasicVSR'), torch.rand(2, 1, 3, 36, 52)
    inputs = {'frame': frames[0], 'other': frames[1]}
    with torch.autocast('cpu', torch.bfloat16):
        graph = trace(net, 'flow', inputs)
    assert graph == trace(net, 'flow', inputs)


@torch.no_grad()
def test_windows_and_images(runtime):
    net = build_msffn()
    frames = film(3, 12, 16)
    assert (upscale(on_runtime(net, runtime), frames) - upscale(net, frames)).abs().max() < 1e-4


# ---------------------------------------------------------------------------- choice


def test_auto_takes_openvino_where_it_can(monkeypatch):
    pytest.importorskip('openvino', reason='openvino is not installed')
    net = small_network('BasicVSR')
    assert 'openvino' in repr(on_runtime(net, 'auto'))
    for other in (Recurrent(), build_network({'type': 'Bicubic'}), build_msffn()):
        assert on_runtime(other, 'auto') is other
    net.forward_trunk.register_forward_hook(lambda *inputs: torch.special.bessel_j0(inputs[-1]))  # ONNX has none
    assert on_runtime(net, 'auto') is net
    monkeypatch.setattr(sessions, 'is_installed', lambda package: package != 'openvino')
    monkeypatch.setattr('basicsr_plugins.inference.runtimes.is_installed', sessions.is_installed)
    other = small_network('BasicVSR')
    assert on_runtime(other, 'auto') is other
    with pytest.raises(
        InputError, match=r"openvino, which is not installed: pip install 'basicsr-plugins\[openvino\]'"
    ):
        on_runtime(other, 'openvino')


def test_what_is_refused(runtime):
    net = small_network('BasicVSR')
    with pytest.raises(InputError, match="no runtime 'opnvino'; did you mean 'openvino'"):
        on_runtime(net, 'opnvino')
    with pytest.raises(InputError, match='has no steps'):
        on_runtime(Recurrent(), runtime)
    if runtime == 'onnxruntime':
        with pytest.raises(InputError, match='computes in float32 here, not in bfloat16'):
            on_runtime(net, runtime, torch.bfloat16)
        with pytest.raises(InputError, match='tensorrt needs an ONNX Runtime that was built with it'):
            on_runtime(net, 'tensorrt')


def test_identity_says_runtime_dtype_and_weights(runtime, tmp_path):
    net = small_network('BasicVSR')
    write_export(net, tmp_path / 'export')
    other = small_network('BasicVSR')
    other.conv_last.bias.data += 1
    nets = [net, on_runtime(net, runtime), on_runtime(other, runtime), on_runtime(Export(tmp_path / 'export'), runtime)]
    if runtime == 'openvino' and torch.bfloat16 in OpenVINO.dtypes():
        nets.append(on_runtime(net, runtime, torch.bfloat16))
    identities = [network_identity(one) for one in nets]
    assert len(set(identities)) == len(nets)
    assert all(identity.startswith('BasicVSR ') for identity in identities)
    assert network_identity(on_runtime(net, runtime)) == identities[1]


# ---------------------------------------------------------------------------- the commands


def test_export_and_upscale_commands(runtime, tmp_path, capsys):
    """A folder of PNGs by an exported network; another runtime does not take up what this one left."""
    frames, weights, export = tmp_path / 'frames', tmp_path / 'net.pth', tmp_path / 'export'
    frames.mkdir()
    for i, frame in enumerate(film(3, 16, 20)):
        cv2.imwrite(str(frames / f'{i}.png'), (frame.flip(0).permute(1, 2, 0) * 255).round().byte().numpy())
    network = 'RRN:num_feat=8,num_block=1'
    torch.manual_seed(0)
    net = build_network({'type': 'RRN', 'num_feat': 8, 'num_block': 1}).eval()
    torch.save(net.state_dict(), weights)
    main(['export', str(weights), '--network', network, '-o', str(export)])
    assert 'files' in capsys.readouterr().out
    main(['upscale', str(frames), '-o', str(tmp_path / 'out'), '--checkpoint', str(export), '--runtime', runtime])
    for i, expected in enumerate(upscale(net, film(3, 16, 20)).clamp(0, 1)):
        image = cv2.imread(str(tmp_path / 'out' / f'{i}.png'))[..., ::-1].astype(np.float32)
        assert np.abs(image / 255 - expected.permute(1, 2, 0).numpy()).max() < 0.51 / 255 + 1e-4
    with pytest.raises(InputError, match='is not empty; name another folder, or overwrite the export in it by --force'):
        main(['export', str(weights), '--network', network, '-o', str(export)])
    with pytest.raises(InputError, match='name no network beside it'):
        load_network(export, network)


def test_a_state_does_not_cross_runtimes(runtime, tmp_path, monkeypatch):
    """What an interrupted run left is refused by every other runtime and dtype, and taken up by the same one."""
    frames = tmp_path / 'frames'
    frames.mkdir()
    for i, frame in enumerate(film(4, 16, 20)):
        cv2.imwrite(str(frames / f'{i}.png'), (frame.permute(1, 2, 0) * 255).round().byte().numpy())
    net = small_network('BasicVSR')
    original = ImageTarget._write

    def stop(self, index, frame):
        if index == 2:
            raise KeyboardInterrupt
        original(self, index, frame)

    with monkeypatch.context() as patch:
        patch.setattr(ImageTarget, '_write', stop)
        with pytest.raises(KeyboardInterrupt):
            upscale_film(on_runtime(net, runtime), frames, tmp_path / 'out', show_progress=False)
    others = [(net, 'torch')]
    if runtime == 'openvino' and torch.bfloat16 in OpenVINO.dtypes():
        others.append((on_runtime(net, runtime, torch.bfloat16), 'openvino .*bfloat16'))
    for other, name in others:
        with pytest.raises(InputError, match=f'runtime is {name} now, but was {runtime} .*float32; resume with what'):
            upscale_film(other, frames, tmp_path / 'out', resume=True, show_progress=False)
    upscale_film(on_runtime(net, runtime), frames, tmp_path / 'out', resume=True, show_progress=False)
    assert len(list((tmp_path / 'out').iterdir())) == 4


def test_a_row_of_the_benchmark_for_each_runtime(runtime):
    plain = parse_method('BasicVSR:num_feat=8,num_block=1')
    other = parse_method(f'BasicVSR:num_feat=8,num_block=1,runtime={runtime}')
    assert (plain.name, other.name) == ('BasicVSR', f'BasicVSR ({runtime})')
    assert plain.identity() != other.identity()
    net = other.build(Protocol())
    assert sum(parameter.numel() for parameter in net.parameters()) > 0
    assert runtime in repr(other.on_runtime(net))
    with pytest.raises(InputError, match="there is no runtime 'x'"):
        parse_method('BasicVSR:num_feat=8,num_block=1,runtime=x').on_runtime(net)
