"""The three conventions of blurred and decimated LR frames: phase, kernel and border."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from basicsr_plugins.data.bd_lr import CONVENTIONS, bd_downsample, bd_downsample_images
from basicsr_plugins.data.bicubic_lr import make_bicubic_lr
from basicsr_plugins.data.vsr_test_dataset import VSRTestDataset
from basicsr_plugins.data.vsr_train_dataset import VSRTrainDataset
from basicsr_plugins.errors import InputError

PHASE = {'bd_duf': 0.0, 'bd_mmagic': 1.5, 'bd_tecogan': 0.0}
names = pytest.mark.parametrize('name', sorted(CONVENTIONS))


@names
@pytest.mark.parametrize('axis', [2, 3])
def test_a_ramp_shows_the_phase(name, axis):
    shape = [1, 3, 64, 64]
    ramp = torch.arange(64.0, dtype=torch.float64) / 64
    frames = ramp.view([64 if i == axis else 1 for i in range(4)]).expand(shape)
    lq = bd_downsample(frames, name).movedim(axis, 0)[:, 0, 0, 8]
    expected = (4 * torch.arange(16.0, dtype=torch.float64) + PHASE[name]) / 64
    torch.testing.assert_close(lq[3:-3], expected[3:-3], rtol=0, atol=1e-6)


@names
def test_a_constant_stays(name):
    torch.testing.assert_close(
        bd_downsample(torch.full((2, 3, 32, 48), 51 / 255), name), torch.full((2, 3, 8, 12), 51 / 255)
    )


@names
def test_an_impulse(name):
    """Of HR pixel (40, 40) the LR maximum is at (10, 10); symmetric where an LR pixel sits on it, else not."""
    frames = torch.zeros(1, 1, 96, 96)
    frames[0, 0, 40, 40] = 1
    lq = bd_downsample(frames, name)[0, 0]
    assert divmod(int(lq.argmax()), 24) == (10, 10)
    around = lq[8:13, 8:13]
    is_symmetric = torch.allclose(around, around.flip(0, 1), atol=1e-6)
    assert is_symmetric is (name != 'bd_mmagic')


def test_duf_against_scipy():
    """Away from the border: scipy's Gaussian of sigma 1.6, cut off at 6 pixels, every fourth pixel."""
    image = np.random.default_rng(0).random((48, 64))
    expected = gaussian_filter(image, 1.6, radius=6)[::4, ::4]
    lq = bd_downsample(torch.from_numpy(image)[None, None], 'bd_duf')[0, 0].numpy()
    np.testing.assert_allclose(lq[2:-2, 2:-2], expected[2:-2, 2:-2], atol=1e-6)


def test_tecogan_against_scipy():
    """With its border: scipy's `mirror` is PyTorch's `reflect`."""
    image = np.random.default_rng(1).random((32, 40))
    expected = gaussian_filter(image, 1.5, radius=4, mode='mirror')[::4, ::4]
    lq = bd_downsample(torch.from_numpy(image)[None, None], 'bd_tecogan')[0, 0].numpy()
    np.testing.assert_allclose(lq, expected, atol=1e-12)


def test_mmagic_by_its_definition():
    """A 12x12 Gaussian whose sixth pixel is at rows and columns 1, 5, 9, ...; replicated border."""
    image = np.random.default_rng(2).random((32, 36))
    offset = np.arange(12) - 5.5
    kernel = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.6**2))
    kernel /= kernel.sum()
    padded = np.pad(image, 16, mode='edge')
    expected = np.empty((8, 9))
    for i in range(8):
        for j in range(9):
            y, x = 16 + 1 + 4 * i - 5, 16 + 1 + 4 * j - 5
            expected[i, j] = (kernel * padded[y : y + 12, x : x + 12]).sum()
    lq = bd_downsample(torch.from_numpy(image)[None, None], 'bd_mmagic')[0, 0].numpy()
    np.testing.assert_allclose(lq, expected, atol=1e-12)


@names
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_images(name, dtype):
    """Cropped, rounded, channel by channel the same as tensors."""
    peak = np.iinfo(dtype).max
    image = np.random.default_rng(3).integers(0, peak + 1, (35, 42, 3)).astype(dtype)
    (lq,) = bd_downsample_images(image[None], name)
    assert lq.shape == (8, 10, 3)
    assert lq.dtype == dtype
    frames = torch.from_numpy(image[:32, :40].astype(np.float64) / peak).permute(2, 0, 1)[None]
    expected = bd_downsample(frames, name)[0].permute(1, 2, 0).numpy() * peak
    np.testing.assert_allclose(lq, expected, atol=0.52)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((torch.zeros(1, 3, 32, 32), 'bd_duff'), "no degradation 'bd_duff'; did you mean 'bd_duf'"),
        ((torch.zeros(1, 3, 32, 32), 'bd_duf', 2), 'defined for scale 4, but the scale is 2'),
        ((torch.zeros(1, 3, 32, 34), 'bd_mmagic'), 'divide by 4 and are 16 or more, but got 34x32'),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        bd_downsample(*arguments)


# ---------------------------------------------------------------------------- in the datasets


@pytest.mark.parametrize('num_frame', [1, 3])
def test_training_samples(train_options, num_frame):
    """LQ is made of the GT patch as it is after flips, which move the place of LR pixels otherwise."""
    del train_options['dataroot_lq']
    dataset = VSRTrainDataset({**train_options, 'num_frame': num_frame, 'degradation': 'bd_duf'})
    firsts = set()
    for index in range(12):
        sample = dataset[index]
        assert torch.equal(sample['lq'], bd_downsample(sample['gt'], 'bd_duf'))
        assert sample['lq'].shape == (num_frame, 3, 8, 8)
        rows = sample['gt'][0, 2] * 255  # in the blocks of the GT frames blue says the row
        firsts.add(int((rows != rows[0, 0]).float().argmax()))
    assert len(firsts) > 4  # patches begin anywhere, not only where a block does


def test_clips_equal_generated_files(test_options, clip_folders, tmp_path):
    """On the fly the test dataset gives the frames that generation writes."""
    assert make_bicubic_lr(clip_folders / 'GT', tmp_path / 'BD', num_worker=0, degradation='bd_tecogan') > 0
    written = VSRTestDataset({**test_options, 'io_backend': {'type': 'disk'}, **_roots(clip_folders, tmp_path)})
    options = {**test_options, 'degradation': 'bd_tecogan'}
    del options['dataroot_lq']
    made = VSRTestDataset(options)
    assert len(made) == len(written) == 4
    for index in range(4):
        ours, theirs = made[index], written[index]
        assert ours['folder'] == theirs['folder']
        assert torch.equal(ours['lq'], theirs['lq'])
        assert torch.equal(ours['gt'], theirs['gt'])
    with pytest.raises(
        InputError, match='degradation was bd_tecogan, is None'
    ):  # bicubic LR frames do not go among these
        make_bicubic_lr(clip_folders / 'GT', tmp_path / 'BD', num_worker=0)


def _roots(clip_folders, tmp_path):
    return {'dataroot_lq': str(tmp_path / 'BD'), 'dataroot_gt': str(clip_folders / 'GT')}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'degradation': 'bd_duf'}, 'leave dataroot_lq or degradation out'),
        ({'degradation': 'bd', 'dataroot_lq': None}, "no degradation 'bd'"),
        ({'degradation': 'bd_duf', 'dataroot_lq': None, 'dataroot_gt': None}, "the key 'dataroot_gt' is missing"),
    ],
)
@pytest.mark.parametrize('phase', ['train', 'test'])
def test_wrong_options(train_options, test_options, phase, change, message):
    options, dataset = (train_options, VSRTrainDataset) if phase == 'train' else (test_options, VSRTestDataset)
    options = {key: value for key, value in {**options, **change}.items() if value is not None}
    with pytest.raises(InputError, match=message):
        dataset(options)
