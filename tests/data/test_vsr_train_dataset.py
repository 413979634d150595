import random
import shutil

import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.data.reds_dataset import REDSRecurrentDataset

from basicsr_plugins.data.sampling import SeededIndex, SeededSampler
from basicsr_plugins.data.vsr_train_dataset import VSRTrainDataset
from basicsr_plugins.errors import InputError

from .conftest import LENGTHS


def frames_of(sample):
    """Clip and frame numbers that the red channel of a sample says."""
    red = (sample['lq'][:, 0] * 255).round().long()  # (t, p, p)
    assert all(len(frame.unique()) == 1 for frame in red)
    number = max(n for n in range(len(LENGTHS)) if n * 25 <= red.min())
    return number, [int(frame[0, 0]) - number * 25 for frame in red]


def test_samples_are_runs_of_one_clip_cropped_alike(train_options):
    dataset = VSRTrainDataset({**train_options, 'interval_list': [1, 2, 3], 'random_reverse': True})
    assert len(dataset) == sum(LENGTHS.values())
    steps, orientations = set(), set()
    for index in range(len(dataset)):
        sample = dataset[SeededIndex(index, (0, index))]
        assert sample['lq'].shape == (5, 3, 8, 8)
        assert torch.equal(sample['gt'], sample['lq'].repeat_interleave(4, 2).repeat_interleave(4, 3))
        number, frames = frames_of(sample)
        clip = list(LENGTHS)[number]
        assert sample['key'].startswith(f'{clip}/')
        (step,) = set(np.diff(frames))
        steps.add(step)
        assert min(frames) >= 0
        assert max(frames) < LENGTHS[clip]
        first = int(sample['key'].split('/')[1])
        assert min(frames) == first or first > LENGTHS[clip] - 1 - 4 * abs(step)  # moved only where it would not fit
        blue = (sample['lq'][0, 2] * 255).round()
        assert torch.equal(sample['lq'][0, 1:], sample['lq'][4, 1:])  # the same place in every frame
        down, right = (blue[1, 0] - blue[0, 0]).item(), (blue[0, 1] - blue[0, 0]).item()
        orientations.add((np.sign(down), np.sign(right)))
    assert steps == {1, 2, 3, -1, -2, -3}
    assert orientations == {(1, 0), (-1, 0), (0, 1), (0, -1)}


def test_equals_the_toolbox_dataset_for_the_same_random_state(tmp_path, monkeypatch):
    """On 100 frames, for which the toolbox is written."""
    import cv2

    for kind, size in (('LQ', 12), ('GT', 48)):
        (tmp_path / kind / '000').mkdir(parents=True)
        noise = np.random.RandomState(size).randint(0, 256, (100, size, size, 3), dtype=np.uint8)
        for frame in range(100):
            cv2.imwrite(str(tmp_path / kind / '000' / f'{frame:08d}.png'), noise[frame])
    (tmp_path / 'meta.txt').write_text('000 100 (48,48,3)\n')
    options = {
        'name': 'REDS',
        'type': 'VSRTrainDataset',
        'phase': 'train',
        'scale': 4,
        'dataroot_gt': str(tmp_path / 'GT'),
        'dataroot_lq': str(tmp_path / 'LQ'),
        'meta_info_file': str(tmp_path / 'meta.txt'),
        'val_partition': 'official',
        'test_mode': False,
        'io_backend': {'type': 'disk'},
        'num_frame': 15,
        'gt_size': 32,
        'interval_list': [1, 2],
        'random_reverse': True,
        'use_hflip': True,
        'use_rot': True,
    }
    ours = VSRTrainDataset(options)
    theirs = REDSRecurrentDataset({**options, 'io_backend': {'type': 'disk'}})
    assert len(ours) == len(theirs) == 100
    for index in range(0, 70, 3):
        mine = ours[SeededIndex(index, (7, index))]
        random.seed(repr((7, index)))
        reference = theirs[index]
        assert torch.equal(mine['lq'], reference['lq'])
        assert torch.equal(mine['gt'], reference['gt'])
        assert mine['key'] == reference['key']


def batches(options, workers, seed=3, world_size=1, rank=0, batch_size=4, epoch=1, resume=None):
    """The keys and pixel sums that the toolbox's loader gives in an epoch."""
    loader_options = {**options, 'num_worker_per_gpu': workers, 'batch_size_per_gpu': batch_size}
    if resume:
        loader_options['resume'] = resume
    dataset = build_dataset(loader_options)
    sampler = EnlargedSampler(dataset, world_size, rank, ratio=2)
    sampler.set_epoch(epoch)
    loader = build_dataloader(dataset, loader_options, num_gpu=0, dist=world_size > 1, sampler=sampler, seed=seed)
    return [[(key, lq.sum().item()) for key, lq in zip(batch['key'], batch['lq'])] for batch in loader]


def test_same_samples_whatever_the_number_of_workers(train_options):
    reference = batches(train_options, workers=0)
    assert len(reference) == 2 * sum(LENGTHS.values()) // 4
    assert batches(train_options, workers=1) == reference
    assert batches(train_options, workers=3) == reference
    assert batches(train_options, workers=0, seed=4) != reference
    assert batches(train_options, workers=0, epoch=2) != reference
    samples = [sample for batch in reference for sample in batch]
    assert len(set(samples)) > len({key for key, _ in samples})  # the same key again is another crop


def test_same_samples_over_two_processes(train_options):
    reference = batches(train_options, workers=0)
    halves = [batches(train_options, workers=0, world_size=2, rank=rank, batch_size=2) for rank in (0, 1)]
    together = [first + second for first, second in zip(*halves)]
    assert [sorted(batch) for batch in together] == [sorted(batch) for batch in reference[: len(together)]]


def test_resume_goes_on_where_it_stopped(train_options):
    reference = batches(train_options, workers=0)
    done = 5
    resume = {'epoch': 1, 'iter': len(reference) + done}
    assert batches(train_options, workers=0, resume=resume) == reference[done:]
    assert batches(train_options, workers=0, epoch=2, resume=resume) == batches(train_options, workers=0, epoch=2)


def test_global_random_state_is_left_alone(train_options):
    dataset = VSRTrainDataset(train_options)
    random.seed(5)
    expected = random.random()
    random.seed(5)
    dataset[SeededIndex(0, (1, 2, 3))]
    assert random.random() == expected


def test_sampler_length():
    sampler = SeededSampler(EnlargedSampler(range(10), 1, 0, 3), seed=0, batch_size=4)
    items = list(sampler)
    assert len(sampler) == len(items) == 30
    assert len({item.seed for item in items}) == 30


@pytest.mark.parametrize(
    ('partition', 'kept'),
    [
        (None, ['000', '001', '011', 'long']),
        ('none', ['000', '001', '011', 'long']),
        ('REDS4', ['001', 'long']),
        ('official', ['000', '001', '011', 'long']),
        (['long'], ['000', '001', '011']),
    ],
)
def test_val_partition(train_options, partition, kept):
    dataset = VSRTrainDataset({**train_options, 'val_partition': partition})
    assert [lq.name for lq, _ in dataset.clips] == kept


def test_test_mode_takes_the_partition(train_options):
    dataset = VSRTrainDataset({**train_options, 'val_partition': 'REDS4', 'test_mode': True})
    assert [lq.name for lq, _ in dataset.clips] == ['000', '011']


def test_meta_info_file_says_which_clips(train_options, tmp_path):
    (tmp_path / 'meta.txt').write_text('011 7 (48,64,3)\nlong 20 (48,64,3)\n')
    dataset = VSRTrainDataset({**train_options, 'meta_info_file': str(tmp_path / 'meta.txt')})
    assert [lq.name for lq, _ in dataset.clips] == ['011', 'long']
    (tmp_path / 'meta.txt').write_text('011 8 (48,64,3)\n')
    with pytest.raises(InputError, match=r'clip 011 has 8 frames, but .* holds 7'):
        VSRTrainDataset({**train_options, 'meta_info_file': str(tmp_path / 'meta.txt')})


def test_clips_shorter_than_a_sample_are_left_out(train_options):
    dataset = VSRTrainDataset({**train_options, 'num_frame': 10})
    assert [lq.name for lq, _ in dataset.clips] == ['001', 'long']
    with pytest.raises(InputError, match=r'num_frame is 21 at interval 1, but no clip of .* has 21 frames'):
        VSRTrainDataset({**train_options, 'num_frame': 21})


def test_single_frame_samples(train_options):
    sample = VSRTrainDataset({**train_options, 'num_frame': 1})[0]
    assert sample['lq'].shape == (1, 3, 8, 8)
    assert torch.equal(sample['gt'], sample['lq'].repeat_interleave(4, 2).repeat_interleave(4, 3))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'gt_sise': 64}, "clips: there is no key 'gt_sise'; did you mean 'gt_size'?"),
        ({'zzz': 1}, "clips: there is no key 'zzz'; valid ones are batch_size_per_gpu, "),
        ({'gt_size': None}, "clips: the key 'gt_size' is missing."),
        ({'gt_size': 30}, 'gt_size (30) must be a multiple of scale (4)'),
        ({'num_frame': 0}, 'num_frame must be a whole number from 1 to 10000, but is 0'),
        ({'interval_list': [0]}, 'interval_list must be a list of whole numbers from 1 to 10000, but is [0]'),
        ({'val_partition': 'REDS5'}, 'val_partition must be REDS4, official, a list of clip names or none'),
        ({'val_partition': [0]}, "but is [0]; put names that are numbers in quotes ('000')."),
        ({'val_partition': ['nope']}, 'val_partition names clip nope, which is not in the data'),
        ({'val_partition': ['000', '001', '011', 'long']}, 'val_partition leaves no clips'),
        ({'io_backend': {'type': 'memcached'}}, "io_backend: type cannot be 'memcached'; valid ones are disk, lmdb."),
        ({'io_backend': {'tipe': 'disk'}}, "there is no key 'tipe'; did you mean 'type'?"),
        ({'dataroot_gt': 'nowhere'}, 'dataroot_gt: there is no folder nowhere'),
    ],
)
def test_wrong_options(train_options, change, message):
    options = {key: value for key, value in {**train_options, **change}.items() if key not in change or value}
    if change.get('num_frame') == 0:
        options['num_frame'] = 0
    with pytest.raises(InputError) as caught:
        VSRTrainDataset(options)
    assert message in str(caught.value)
    assert '\n' not in str(caught.value)


def test_wrong_backend(train_options):
    other = {'disk': 'lmdb', 'lmdb': 'disk'}[train_options['io_backend']['type']]
    with pytest.raises(InputError, match=f'but io_backend says type: {other}'):
        VSRTrainDataset({**train_options, 'io_backend': {'type': other}})


@pytest.fixture
def copied(train_options, clip_folders, tmp_path):
    """Folders that a test may damage."""
    shutil.copytree(clip_folders, tmp_path / 'clips')
    root = tmp_path / 'clips'
    disk = {'dataroot_gt': str(root / 'GT'), 'dataroot_lq': str(root / 'LQ'), 'io_backend': {'type': 'disk'}}
    return root, {**train_options, **disk}


def test_missing_frames_and_clips(copied):
    root, options = copied
    (root / 'GT' / '001' / '00000011.png').unlink()
    with pytest.raises(InputError, match=r'clip 001 has 12 frames in .*LQ, but 11 in .*GT'):
        VSRTrainDataset(options)
    (root / 'GT' / '001' / '00000005.png').unlink()
    with pytest.raises(InputError, match=r'clip 001 in .*GT: 00000004.png is followed by 00000006.png'):
        VSRTrainDataset(options)
    shutil.rmtree(root / 'GT' / '001')
    with pytest.raises(InputError, match=r'clip 001 is in .*LQ, but not in .*GT'):
        VSRTrainDataset(options)


def test_damaged_and_wrong_sized_files(copied):
    import cv2

    root, options = copied
    path = root / 'LQ' / '000' / '00000000.png'
    dataset = VSRTrainDataset({**options, 'num_frame': 9})
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r'LQ/000/00000000.png is damaged'):
        dataset[0]
    path.write_bytes(b'')
    with pytest.raises(InputError, match=r'LQ/000/00000000.png is damaged'):
        dataset[0]
    cv2.imwrite(str(path), np.zeros((12, 15, 3), np.uint8))
    with pytest.raises(InputError, match=r'is 64x48, but 4 times 000/00000000.png .* would be 60x48'):
        dataset[0]
    path.unlink()
    with pytest.raises(InputError, match=r'LQ/000/00000000.png: No such file'):
        dataset[0]


def test_clips_that_begin_with_different_frames(copied):
    """As when LQ lost its last frame and GT its first: the same number of frames, one out of step."""
    root, options = copied
    (root / 'LQ' / '001' / '00000011.png').unlink()
    (root / 'GT' / '001' / '00000000.png').unlink()
    with pytest.raises(InputError, match=r'clip 001 begins with frame 00000000.png in .*LQ, but with 00000001.png in'):
        VSRTrainDataset(options)


def test_lmdb_cut_short(clip_lmdbs, train_options, tmp_path):
    """Reading beyond the end of the file would kill the process."""
    shutil.copytree(clip_lmdbs, tmp_path / 'lmdbs')
    path = tmp_path / 'lmdbs' / 'GT.lmdb' / 'data.mdb'
    with open(path, 'r+b') as file:
        file.truncate(path.stat().st_size // 2)
    roots = {f'dataroot_{kind.lower()}': str(tmp_path / 'lmdbs' / f'{kind}.lmdb') for kind in ('LQ', 'GT')}
    with pytest.raises(InputError, match=r'GT.lmdb has a data.mdb that is cut short'):
        VSRTrainDataset({**train_options, **roots, 'io_backend': {'type': 'lmdb'}})


def test_damaged_key_of_an_lmdb(clip_lmdbs, train_options, tmp_path):
    import lmdb

    shutil.copytree(clip_lmdbs, tmp_path / 'lmdbs')
    with lmdb.open(str(tmp_path / 'lmdbs' / 'LQ.lmdb')) as env, env.begin(write=True) as txn:
        txn.put(b'000/00000003', b'no image')
        txn.delete(b'000/00000004')
    roots = {f'dataroot_{kind.lower()}': str(tmp_path / 'lmdbs' / f'{kind}.lmdb') for kind in ('LQ', 'GT')}
    dataset = VSRTrainDataset({**train_options, **roots, 'io_backend': {'type': 'lmdb'}, 'num_frame': 1})
    with pytest.raises(InputError, match=r'000/00000003 of .*LQ.lmdb is damaged'):
        dataset[3]
    with pytest.raises(InputError, match=r'000/00000004 of .*LQ.lmdb: there is no such key'):
        dataset[4]


def test_patch_larger_than_the_frame(train_options):
    with pytest.raises(InputError, match=r'gt_size is 64, but the frames of clip 000 are 64x48'):
        VSRTrainDataset({**train_options, 'gt_size': 64})


@pytest.mark.parametrize('key', ['batch_size_per_gpu', 'num_worker_per_gpu'])
def test_loader_without_its_keys(train_options, key):
    options = {**train_options, 'num_worker_per_gpu': 0, 'batch_size_per_gpu': 1}
    dataset = VSRTrainDataset(options)
    del options[key]
    with pytest.raises(InputError, match=f"datasets: clips: the key '{key}' is missing"):
        build_dataloader(dataset, options, num_gpu=0, sampler=EnlargedSampler(dataset, 1, 0), seed=0)


def test_presets_of_degradation_in_training(train_options):
    """LR patches of a film: another one than bicubic, of 8 bits, the same for the same seed, and not for another."""
    options = {key: value for key, value in train_options.items() if key != 'dataroot_lq'}
    dataset = VSRTrainDataset({**options, 'degradation': 'film'})
    first, again, other = (dataset[SeededIndex(0, seed)]['lq'] for seed in ((0, 0, 1), (0, 0, 1), (0, 0, 2)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first, (first * 255).round() / 255)
    with pytest.raises(InputError, match="no degradation 'fil'; did you mean 'film'"):
        VSRTrainDataset({**options, 'degradation': 'fil'})


def test_mirrored_samples(train_options):
    """GT runs back after its end; LQ does too or, made by a degradation, is made anew for each frame."""
    read = VSRTrainDataset({**train_options, 'mirror': True})[SeededIndex(0, (0, 0, 1))]
    once = VSRTrainDataset(train_options)[SeededIndex(0, (0, 0, 1))]
    for name in ('lq', 'gt'):
        assert torch.equal(read[name], torch.cat((once[name], once[name].flip(0))))
    options = {key: value for key, value in train_options.items() if key != 'dataroot_lq'}
    noise = [{'type': 'noise', 'gaussian_prob': 1}, {'type': 'shrink'}]
    sample = VSRTrainDataset({**options, 'mirror': True, 'degradation': noise})[SeededIndex(0, (0, 0, 1))]
    t = len(once['lq'])
    assert torch.equal(sample['gt'][:t], sample['gt'][t:].flip(0))
    assert not torch.equal(sample['lq'][:t], sample['lq'][t:].flip(0))


@pytest.mark.parametrize('uint8', [False, True])
def test_lq_of_every_second_frame(train_options, uint8):
    options = {**train_options, 'random_reverse': True, 'uint8': uint8}
    whole, thinned = VSRTrainDataset(options), VSRTrainDataset({**options, 'lq_interval': 2})
    for seed in range(4):
        one, other = (dataset[SeededIndex(3, (0, 0, seed))] for dataset in (whole, thinned))
        assert torch.equal(other['lq'], one['lq'][::2])
        assert torch.equal(other['gt'], one['gt'])
    with pytest.raises(InputError, match=r'a sample that has LQ of every 3\. frame must end with one'):
        VSRTrainDataset({**options, 'lq_interval': 3})
