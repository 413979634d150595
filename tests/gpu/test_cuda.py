"""What only a GPU can show; everything here skips without one. `scripts/gpu_suite.sh` runs it there."""

import av
import pytest
import torch
from basicsr.archs import build_network
from basicsr.models import build_model

from basicsr_plugins.benchmark.profile import seconds_per_frame
from basicsr_plugins.errors import RunError
from basicsr_plugins.inference import UpscaleSettings, upscale_frames
from basicsr_plugins.inference.buffers import DiskFrames, MemoryFrames
from basicsr_plugins.inference.runtimes import on_runtime
from basicsr_plugins.memory import PeakMemory
from basicsr_plugins.models.restoration import restore_frames
from basicsr_plugins.ops.deform_conv import available_backends, modulated_deform_conv2d, select_backend
from basicsr_plugins.upscaling import upscale
from basicsr_plugins.video.images import encode_png
from basicsr_plugins.video.opening import VideoSettings, open_source

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')

NETWORKS = {
    'EFAR': {'num_feat': 16, 'num_block': 2},
    'MSFFN': {'num_feat': 16, 'num_frame': 3, 'num_mdrb': 1, 'num_block': 2},
    'BasicVSR': {'num_feat': 16, 'num_block': 2},
    'EDVR': {'num_feat': 16, 'num_frame': 3, 'num_extract_block': 1, 'num_reconstruct_block': 1},
    'Bicubic': {},
}


def build(name):
    torch.manual_seed(0)
    net = build_network({'type': name, **NETWORKS[name]}).eval()
    for parameter in net.parameters():  # alignment that does something
        parameter.data += 0.02 * torch.randn_like(parameter)
    return net


@pytest.fixture(autouse=True)
def _float32_is_float32():
    """TF32 has 10 bits of mantissa: not what these tests compare."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@torch.no_grad()
@pytest.mark.parametrize('name', sorted(NETWORKS))
def test_networks_give_what_they_give_on_the_cpu(name):
    net = build(name)
    frames = torch.rand(3, 3, 40, 52)
    expected = torch.stack(list(restore_frames(net, frames)))
    restored = torch.stack(list(restore_frames(net.cuda(), frames.cuda())))
    assert restored.is_cuda
    torch.testing.assert_close(restored.cpu(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('name', ['EFAR', 'BasicVSR'])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-3), (torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_upscaling_in_each_precision(name, dtype, tolerance):
    net, frames = build(name), torch.rand(5, 3, 64, 72)
    expected = torch.stack(list(upscale_frames(net, frames, UpscaleSettings(segment=2))))
    net = on_runtime(net.cuda(), 'auto', dtype)
    upscaled = torch.stack(list(upscale_frames(net, frames, UpscaleSettings(segment=2, dtype=dtype))))
    assert upscaled.is_cuda
    assert (upscaled.cpu() - expected).square().mean().sqrt() < tolerance * expected.std()


@pytest.mark.parametrize('name', ['EFAR', 'BasicVSR'])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-3), (torch.float16, 0.02)])
def test_compiled_steps_give_the_same(name, dtype, tolerance):
    net, frames = build(name).cuda(), torch.rand(5, 3, 64, 72)
    plain, compiled = (
        torch.stack(list(upscale_frames(net, frames, UpscaleSettings(dtype=dtype, compiled=compiled))))
        for compiled in (False, True)
    )
    torch.testing.assert_close(compiled, plain, rtol=0, atol=tolerance)


@pytest.mark.parametrize('codec', ['h264_nvenc', 'hevc_nvenc'])
def test_films_are_encoded_there(tmp_path, codec):
    if codec not in av.codecs_available:
        pytest.skip(f'this PyAV has no {codec}')
    folder, film = tmp_path / 'frames', tmp_path / 'film.mkv'
    folder.mkdir()
    ramp = torch.linspace(0, 1, 160).expand(3, 144, 160)
    for i in range(7):
        (folder / f'{i:08d}.png').write_bytes(encode_png(ramp.roll(4 * i, 2), 8))
    upscale(build('Bicubic').cuda(), folder, film, video=VideoSettings(codec=codec, segment_frames=3))
    expected = list(upscale_frames(build('Bicubic'), open_source(folder)))
    films = list(open_source(film))
    assert len(films) == len(expected) == 7
    assert all((ours - true.clamp(0, 1)).abs().mean() < 0.02 for ours, true in zip(films, expected))


@pytest.mark.parametrize(('peak', 'bit_depth'), [(255, 8), (65535, 16)])
def test_frames_go_there_and_back_as_they_are(peak, bit_depth):
    values = torch.arange(peak + 1).float().div(peak).view(1, 16, -1).expand(3, -1, -1)
    memory, device = MemoryFrames(), torch.device('cuda')
    memory.append(values)
    with DiskFrames() as disk:
        disk.append(values)
        for frame in (disk.load(0, device), memory.load(0, device)):
            assert frame.is_cuda
            assert torch.equal(frame.cpu(), values)
            assert encode_png(frame, bit_depth) == encode_png(values, bit_depth)


@pytest.mark.parametrize('backend', ['torchvision', 'pytorch', 'mmcv'])
def test_deformable_convolution_with_gradients(backend):
    if backend not in available_backends():
        pytest.skip(f'{backend} is not installed')
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 8, 11, 13), (2, 36, 11, 13), (2, 18, 11, 13), (8, 8, 3, 3), (8,))
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    results = {}
    for device in ('cpu', 'cuda'):
        leaves = [tensor.to(device).requires_grad_() for tensor in inputs]
        chosen = backend if device == 'cuda' else 'pytorch'
        output = modulated_deform_conv2d(*leaves, padding=1, deform_groups=2, backend=chosen)
        results[device] = [output, *torch.autograd.grad(output.square().sum(), leaves)]
    for ours, expected in zip(results['cuda'], results['cpu']):
        torch.testing.assert_close(ours.cpu(), expected, rtol=1e-3, atol=1e-3)


def test_auto_is_torchvision():
    assert select_backend(torch.device('cuda')) == 'torchvision'


def test_training_lowers_the_loss():
    net = build('EFAR').cuda().train()
    lq, gt = torch.rand(1, 3, 3, 32, 32).cuda(), torch.rand(1, 3, 3, 128, 128).cuda()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    losses = []
    for _ in range(10):
        loss = (net(lq) - gt).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def training_model(tmp_path, **train):
    torch.manual_seed(0)
    return build_model(
        {
            'name': 'experiment',
            'model_type': 'VSRModel',
            'num_gpu': 1,
            'is_train': True,
            'dist': False,
            'rank': 0,
            'scale': 4,
            'network_g': {'type': 'EFAR', **NETWORKS['EFAR']},
            'path': {'models': str(tmp_path), 'training_states': str(tmp_path), 'log': str(tmp_path)},
            'train': {
                'optim_g': {'type': 'Adam', 'lr': 1e-3},
                'scheduler': {'type': 'MultiStepLR', 'milestones': [100]},
                'total_iter': 100,
                'pixel_opt': {'type': 'CharbonnierLoss', 'eps': 1e-16},
                'ema_decay': 0.9,
                **train,
            },
        }
    )


def training_sample():
    torch.manual_seed(0)
    return {'lq': torch.rand(2, 3, 3, 64, 64).cuda(), 'gt': torch.rand(2, 3, 3, 256, 256).cuda()}


@pytest.mark.parametrize('amp', ['none', 'bfloat16', 'float16'])
@pytest.mark.parametrize('checkpointing', [False, True])
def test_iterations_do_not_wait_for_the_device(tmp_path, amp, checkpointing):
    """In any precision the losses are near float32's; looking at them in the log is what waits."""
    losses = {}
    for precision in ('none', amp):
        model = training_model(tmp_path, amp=precision, checkpointing=checkpointing, accumulate=2, grad_clip=1.0)
        losses[precision] = []
        for current_iter in range(1, 7):
            torch.cuda.set_sync_debug_mode('error' if current_iter > 2 else 'default')
            try:
                model.feed_data(training_sample())
                model.optimize_parameters(current_iter)
            finally:
                torch.cuda.set_sync_debug_mode('default')
            losses[precision].append(model.get_current_log()['l_pix'])
    assert losses[amp][-1] < losses[amp][0]
    assert losses[amp][0] == pytest.approx(losses['none'][0], rel=1e-2)


def test_scale_of_float16_is_resumed(tmp_path):
    model = training_model(tmp_path, amp='float16')
    model.scaler.load_state_dict({**model.scaler.state_dict(), 'scale': 1024.0})
    model.feed_data(training_sample())
    model.optimize_parameters(1)
    model.save(epoch=0, current_iter=1)
    resumed = training_model(tmp_path, amp='float16')
    resumed.resume_training(torch.load(tmp_path / '1.state', weights_only=True))
    assert resumed.scaler.get_scale() == 1024.0
    assert resumed.scaler.state_dict() == model.scaler.state_dict()


@pytest.mark.parametrize('amp', ['none', 'float16'])
def test_steps_that_are_not_finite_are_skipped(tmp_path, amp):
    model = training_model(tmp_path, amp=amp, max_skipped=3)
    bad = training_sample()
    bad['gt'][0, 0, 0, 0, 0] = float('nan')
    before = {name: value.clone() for name, value in model.net_g.state_dict().items()}
    for current_iter in (1, 2, 3):
        model.feed_data(bad)
        model.optimize_parameters(current_iter)
    for name, value in model.net_g.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.raises(RunError, match='training diverged: at iteration 3'):
        model.get_current_log()


def test_cost_is_measured():
    with PeakMemory('cuda') as memory:
        torch.empty(100 << 20, dtype=torch.uint8, device='cuda').fill_(1)
    assert memory.bytes == pytest.approx(100 << 20, rel=0.05)
    assert 0 < seconds_per_frame(build('EFAR').cuda(), (64, 64), 3, 2) < 10
