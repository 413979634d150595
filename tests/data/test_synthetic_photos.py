"""Photographs: what is recorded of them, folders, pyramids."""

import re

import cv2
import numpy as np
import pytest

from basicsr_plugins.data import synthetic_photos
from basicsr_plugins.data.synthetic_photos import PHOTOGRAPHS, photograph_files, read_photograph
from basicsr_plugins.errors import InputError

from ..conftest import PROJECT


def test_the_docs_record_author_and_licence_of_each():
    rows = re.findall(r'^\| `(\S+)` \| (.*) \|$', (PROJECT / 'docs' / 'weights.md').read_text(), re.MULTILINE)
    rows = {name: text for name, text in rows if '.' in name}
    assert set(rows) == {photo.file.split('/')[-1] for photo in PHOTOGRAPHS}
    for photo in PHOTOGRAPHS:
        text = rows[photo.file.split('/')[-1]]
        assert photo.author in text
        assert photo.licence in text
        assert text.endswith('validation' if photo.held_out else 'training')


def test_a_photograph_and_its_halves(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (640, 700, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'x.png'), image)
    levels = read_photograph(str(tmp_path / 'x.png'))
    assert [level.shape for level in levels] == [(640, 700, 3), (320, 350, 3), (160, 175, 3)]
    np.testing.assert_array_equal(levels[0], image[..., ::-1])
    means = image[..., ::-1].reshape(320, 2, 350, 2, 3).mean((1, 3))
    np.testing.assert_allclose(levels[1], means, atol=1)


def test_a_folder_is_divided_into_training_and_validation(tmp_path):
    (tmp_path / 'below').mkdir()
    for number in range(40):
        cv2.imwrite(str(tmp_path / 'below' / f'{number}.png'), np.zeros((8, 8, 3), np.uint8))
    training, validation = (photograph_files(str(tmp_path), held_out) for held_out in (False, True))
    assert len(training) + len(validation) == 40
    assert not set(training) & set(validation)
    assert 1 <= len(validation) <= 12


def test_what_is_wrong_is_said(tmp_path, monkeypatch):
    with pytest.raises(InputError, match='none is for training'):
        photograph_files(str(tmp_path))
    (tmp_path / 'broken.png').write_bytes(b'no picture')
    with pytest.raises(InputError, match=r'broken\.png is missing or damaged'):
        read_photograph(str(tmp_path / 'broken.png'))
    cv2.imwrite(str(tmp_path / 'small.png'), np.zeros((100, 300, 3), np.uint8))
    with pytest.raises(InputError, match='smaller than 160 pixels'):
        read_photograph(str(tmp_path / 'small.png'))
    monkeypatch.setattr(synthetic_photos, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match='pip install scikit-image, or set photos: false'):
        photograph_files()
