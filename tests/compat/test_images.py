"""The toolbox's image functions on today's OpenCV."""

import cv2
import numpy as np
import pytest
from basicsr.data import degradations


def test_jpg_compression():
    image = np.random.RandomState(0).rand(32, 32, 3).astype(np.float32)
    if int(cv2.__version__.split('.')[0]) >= 5:  # older ones may take floats: nothing to fix
        with pytest.raises(cv2.error, match='params'):
            degradations.add_jpg_compression.__wrapped__(image, np.float64(37.6))
    expected = cv2.imdecode(cv2.imencode('.jpg', image * 255, [cv2.IMWRITE_JPEG_QUALITY, 37])[1], 1) / np.float32(255)
    assert np.array_equal(degradations.add_jpg_compression(image, np.float64(37.6)), expected)
    assert degradations.random_add_jpg_compression(image, quality_range=(30, 95)).shape == image.shape
