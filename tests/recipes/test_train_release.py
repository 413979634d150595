"""scripts/recipes/train_release.py: trains for its time, goes on, and ends with weights in the package's format."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
import train_release
import yaml
from basicsr.archs import build_network

from basicsr_plugins.errors import InputError
from basicsr_plugins.models.shipped_weights import save_shipped

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def release(monkeypatch, tmp_path):
    """The recipe in an empty folder, with a network, samples and clips that are small."""
    options = yaml.safe_load((PROJECT / train_release.OPTIONS['rt-video']).read_text())
    options['network_g']['num_feat'] = 4
    options['datasets']['train'].update(num_frame=2, gt_size=32, photos=False, kinds=['stripes'])
    for key in ('degradation', 'degradation_prob'):
        del options['datasets']['train'][key]
    val = Path('datasets/generated_val')
    options['datasets']['val'].update(dataroot_gt=str(val / 'GT'), dataroot_lq=str(val / 'BIx4'))
    option_file = tmp_path / 'tiny.yml'
    option_file.write_text(yaml.safe_dump(options))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_release, 'OPTIONS', {'rt-video': option_file})
    monkeypatch.setattr(train_release, 'FOLDER', tmp_path)
    monkeypatch.setattr(train_release, 'SAVE_EVERY', 4)
    monkeypatch.setattr(train_release, 'VALIDATE_EVERY', 1000)
    validation_set = train_release.validation_set
    monkeypatch.setattr(
        train_release,
        'validation_set',
        lambda output, **_: validation_set(output, number=1, num_frame=2, size=(32, 32), photos=False),
    )
    return train_release


def test_trains_for_its_time_and_ends_with_weights(release, tmp_path):
    release.train('rt-video', 1e-6)  # up to the first checkpoint
    paused = release.newest('rt-video')
    assert int(paused.stem.split('_')[-1]) >= 4
    had = release.hours_of('rt-video')
    assert had > 1e-6
    release.train('rt-video', had / 2)  # it has had that
    assert release.newest('rt-video') == paused

    release.finish('rt-video')
    weights = safetensors.torch.load_file(tmp_path / 'rt-video.safetensors')
    start = torch.load(paused, weights_only=True)['params_ema']
    assert weights.keys() == start.keys()
    assert any(not torch.equal(weights[name].float(), start[name].half().float()) for name in start)
    done = int(paused.stem.split('_')[-1])
    record = json.loads((tmp_path / f'experiments/release_rt-video_final_{done}/record.json').read_text())
    assert record['training'].startswith(f'{done} iterations at a constant rate')


def test_goes_on_from_the_weights_of_the_package(release, tmp_path, monkeypatch):
    """They are what a training begins with that is not there yet, and what is said of it."""
    options = yaml.safe_load(release.OPTIONS['rt-video'].read_text())
    weights = build_network(dict(options['network_g'])).state_dict()
    shipped = tmp_path / 'rt-video.safetensors'
    save_shipped(options['network_g'], weights, shipped, {'licence': 'none', 'training': '7 iterations.'})
    monkeypatch.setattr(release, 'find_weights', lambda name: str(tmp_path / f'{name}.safetensors'))
    release.begin('rt-video', from_shipped=True)
    release.train('rt-video', 1e-6)
    used = yaml.safe_load((tmp_path / 'experiments/release_rt-video.yml').read_text())
    assert release.read_weights(used['path']['pretrain_network_g']).keys() == weights.keys()
    assert used['train']['optim_g']['lr'] < options['train']['optim_g']['lr']
    release.finish('rt-video')
    assert release.read_metadata(shipped)['training'].endswith(' Before: 7 iterations.')

    start = release.start_file('rt-video')
    release.begin('rt-video', from_shipped=True)  # it goes on: the weights that are shipped now are none to begin with
    assert release.read_metadata(start)['training'] == '7 iterations.'
    start.rename(tmp_path / 'kept')
    with pytest.raises(InputError, match="release_rt-video did not begin with the package's weights"):
        release.begin('rt-video', from_shipped=True)
    (tmp_path / 'kept').rename(start)
    (tmp_path / 'experiments/release_rt-video').rename(tmp_path / 'away')
    release.begin('rt-video', from_shipped=False)  # one from nothing
    assert not start.is_file()


def test_weights_of_the_package_end_at_a_falling_rate_alone(release, tmp_path, monkeypatch):
    with pytest.raises(InputError, match='release_rt-video has no checkpoint yet; train it by --hours'):
        release.finish('rt-video', 4)
    options = yaml.safe_load(release.OPTIONS['rt-video'].read_text())
    shipped = tmp_path / 'rt-video.safetensors'
    save_shipped(
        options['network_g'],
        build_network(dict(options['network_g'])).state_dict(),
        shipped,
        {'licence': 'none', 'training': '7 iterations.'},
    )
    monkeypatch.setattr(release, 'find_weights', lambda name: str(shipped))
    before = safetensors.torch.load_file(shipped)
    release.begin('rt-video', from_shipped=True)
    release.finish('rt-video', 8)
    after = safetensors.torch.load_file(shipped)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    used = yaml.safe_load((tmp_path / 'experiments/release_rt-video_final_0.yml').read_text())
    assert used['train']['total_iter'] == 8
    assert used['train']['pixel_opt']['type'] == 'MSELoss'
    training = release.read_metadata(shipped)['training']
    assert training.split(' ', 1)[1].startswith('iterations at a falling rate, batches of 1, on generated clips')
    assert training.endswith(' Before: 7 iterations.')

    release.begin('rt-video', from_shipped=True)  # the same command again: they are trained already
    release.finish('rt-video', 8)
    assert release.read_metadata(shipped)['training'] == training
