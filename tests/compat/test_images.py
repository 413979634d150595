"""The toolbox's image functions on today's OpenCV."""

import cv2
import numpy as np
import pytest
from basicsr.data import degradations


def test_jpg_compression():
    image = np.random.RandomState(0).rand(32, 32, 3).astype(np.float32)
    try:
        degradations.add_jpg_compression.__wrapped__(image, np.float64(37.6))
    except cv2.error as error:
        assert 'params' in str(error)
    else:
        pytest.skip(f'OpenCV {cv2.__version__} takes floats as parameters: nothing to mend')
    expected = cv2.imdecode(cv2.imencode('.jpg', image * 255, [cv2.IMWRITE_JPEG_QUALITY, 37])[1], 1) / np.float32(255)
    assert np.array_equal(degradations.add_jpg_compression(image, np.float64(37.6)), expected)
    assert degradations.random_add_jpg_compression(image, quality_range=(30, 95)).shape == image.shape
