"""Generated clips on disk, and batches for flow networks."""

import json

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataset

from basicsr_plugins.commands import main
from basicsr_plugins.data.bicubic_lr import bicubic_downsample
from basicsr_plugins.data.degradation import shrink_bicubic
from basicsr_plugins.data.synthetic_clips import validation_set, write_clips
from basicsr_plugins.data.synthetic_motion import lr_flow, make_layers, render
from basicsr_plugins.data.synthetic_motion_dataset import flow_batches, read_material
from basicsr_plugins.errors import InputError


def read(folder):
    paths = sorted(folder.rglob('*.png'))
    return {path.relative_to(folder).as_posix(): cv2.imread(str(path)) for path in paths}


def test_validation_clips_are_read_by_the_test_dataset(tmp_path):
    assert validation_set(tmp_path / 'val', number=2, num_frame=3, size=(48, 64))
    assert not validation_set(tmp_path / 'val', number=2, num_frame=3, size=(48, 64))
    frames = read(tmp_path / 'val')
    assert len(frames) == 12
    for clip in ('000', '001'):
        for t in range(3):
            gt, lq = (frames[f'{kind}/{clip}/{t:08d}.png'] for kind in ('GT', 'BIx4'))
            assert gt.shape == (48, 64, 3)
            assert np.abs(lq.astype(int) - bicubic_downsample(gt, 4)).max() <= 1
    dataset = build_dataset(
        {
            'name': 'val',
            'type': 'VSRTestDataset',
            'phase': 'val',
            'scale': 4,
            'dataroot_gt': str(tmp_path / 'val' / 'GT'),
            'dataroot_lq': str(tmp_path / 'val' / 'BIx4'),
            'io_backend': {'type': 'disk'},
        }
    )
    assert len(dataset) == 2
    gt = cv2.cvtColor(frames['GT/000/00000000.png'], cv2.COLOR_BGR2RGB)
    torch.testing.assert_close(dataset[0]['gt'][0], torch.from_numpy(gt).permute(2, 0, 1).float() / 255)


def test_the_same_seed_gives_the_same_files_and_held_out_ones_are_others(tmp_path):
    for name, options in [('a', {}), ('b', {}), ('c', {'held_out': True}), ('d', {'seed': 1})]:
        write_clips(tmp_path / name, 1, 2, (32, 32), degradation='film', **options)
    a, b, c, d = (read(tmp_path / name) for name in 'abcd')
    assert sorted(a) == [f'{kind}/000/{t:08d}.png' for kind in ('GT', 'LQ') for t in range(2)]
    assert all((a[key] == b[key]).all() for key in a)
    assert any((a[key] != c[key]).any() for key in a)
    assert any((a[key] != d[key]).any() for key in a)


def test_command(tmp_path, capsys):
    argv = ['synthetic-clips', str(tmp_path / 'x'), '--number', '1', '--num-frame', '2', '--size', '32x48']
    main(argv)
    assert 'made' in capsys.readouterr().out
    assert read(tmp_path / 'x')['GT/000/00000001.png'].shape == (32, 48, 3)
    assert json.loads((tmp_path / 'x' / 'synthetic_clips.json').read_text())['degradation'] is None
    main(argv)
    assert 'there already' in capsys.readouterr().out


def test_what_cannot_be_made(tmp_path):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'file').touch()
    with pytest.raises(InputError, match='holds something else'):
        write_clips(tmp_path / 'full', 1, 2, (32, 32))
    with pytest.raises(InputError, match='multiples of the scale'):
        write_clips(tmp_path / 'odd', 1, 2, (30, 32))
    with pytest.raises(InputError, match='multiples of the scale'):
        write_clips(tmp_path / 'none', 1, 2, (32, 32), scale=0)


def test_flow_batches_hold_the_pairs_of_generated_clips():
    """Each flow is that of its layers; the seed decides, and the next batch is another."""
    batches = flow_batches(6, 96, seed=1)
    first, again = next(batches), next(flow_batches(6, 96, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(next(batches)[0], first[0])
    rng = np.random.default_rng([3, 1, 0])
    layers = make_layers(rng, read_material('here', True, None), 3, (96, 96))
    frames, opacity = render(layers, (96, 96))
    lqs = torch.from_numpy(shrink_bicubic(frames, 4)).permute(0, 3, 1, 2).float() / 255
    for frame, other, flow in zip(*(part[:3] for part in first)):  # those of the first clip
        t, s = (next(i for i in range(3) if torch.allclose(image, lqs[i])) for image in (frame, other))
        assert t != s
        np.testing.assert_array_equal(flow, lr_flow(layers, opacity, t, s, 4))
