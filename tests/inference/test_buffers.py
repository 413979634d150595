"""What is kept on disk comes back as it was."""

import pytest
import torch

from basicsr_plugins.errors import InputError
from basicsr_plugins.inference.buffers import MemoryFrames, DiskFrames, DiskStates


@pytest.mark.parametrize(
    ('frame', 'bytes_per_value'),
    [
        (torch.arange(256).float().div(255).repeat(3, 2, 1), 1),
        (torch.arange(65536).float().div(65535).view(1, 256, 256).repeat(3, 1, 1), 2),
        (torch.rand(3, 5, 7), 4),
        (torch.tensor([-0.5, 0.0, 1.5]).view(3, 1, 1), 4),
        (torch.tensor([float('nan'), 0.0, 1.0]).view(3, 1, 1), 4),
    ],
)
def test_frames_come_back_exactly(frame, bytes_per_value):
    with DiskFrames() as frames:
        for _ in range(3):
            frames.append(frame)
        assert frames._offsets.tolist() == [i * frame.numel() * bytes_per_value for i in range(4)]
        for i in (2, 0, 1):
            assert torch.equal(frames[i].nan_to_num(9), frame.nan_to_num(9))


def test_frames_of_several_precisions():
    originals = [torch.zeros(3, 2, 2), torch.rand(3, 2, 2), torch.ones(3, 2, 2), torch.full((3, 2, 2), 77 / 65535)]
    with DiskFrames() as frames:
        for frame in originals:
            frames.append(frame)
        assert len(frames) == 4
        assert all(torch.equal(frames[i], original) for i, original in enumerate(originals))


def test_nothing_is_left_in_the_folder(tmp_path):
    folder = tmp_path / 'new'
    with DiskFrames(folder) as frames, DiskStates(folder) as states:
        frames.append(torch.rand(3, 2, 2))
        states.save(0, torch.rand(1, 2, 2, 2))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 0), (torch.float16, 1e-3)])
def test_states(dtype, tolerance):
    originals = torch.randn(4, 1, 2, 3, 5).clamp(-1, 1)
    with DiskStates(dtype=dtype) as states:
        for place in (3, 2, 0, 1):
            states.save(place, originals[place])
        for place in range(4):
            assert (states.load(place) - originals[place]).abs().max() <= tolerance
            assert states.load(place).dtype == torch.float32


def test_states_of_bfloat16_come_back_exactly():
    original = torch.randn(1, 2, 3, 4).bfloat16()
    with DiskStates() as states:
        states.save(0, original)
        assert states.load(0).dtype == torch.bfloat16
        assert torch.equal(states.load(0), original)


def test_states_of_several_tensors():
    with DiskStates() as states:
        originals = [(torch.randn(1, 2, 3, 4), torch.randn(1, 5, 3, 4).bfloat16()) for _ in range(3)]
        for place, state in enumerate(originals):
            states.save(place, state)
        for place in (1, 0, 2):
            for loaded, original in zip(states.load(place), originals[place]):
                assert loaded.dtype == original.dtype
                assert torch.equal(loaded, original)


def test_memory_forgets():
    frames = MemoryFrames()
    for i in range(5):
        frames.append(torch.full((3, 1, 1), float(i)))
    frames.forget(3)
    assert len(frames) == 5
    assert frames[3][0, 0, 0] == 3
    with pytest.raises(KeyError):
        frames[2]


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match=r'cannot write temporary files to .*file'):
        DiskFrames(tmp_path / 'file')


def test_full_disk(monkeypatch, tmp_path):
    with DiskFrames(tmp_path) as frames:

        def write(data):
            raise OSError(28, 'No space left on device')

        monkeypatch.setattr(
            frames._file,
            '_file',
            type('Full', (), {'seek': lambda *_: 0, 'write': lambda *_: write(0), 'close': lambda _: None})(),
        )
        with pytest.raises(InputError, match=r'No space left on device.*more space'):
            frames.append(torch.rand(3, 2, 2))
