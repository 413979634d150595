"""Image functions of the toolbox on today's OpenCV."""

from __future__ import annotations

from basicsr.data import degradations

from basicsr_plugins.compat.rebind import wrap


def jpg_compression() -> None:
    """Let JPEG degradations work: the quality that they sample is not a whole number.

    Breaks on an OpenCV whose `imencode` takes no floats as parameters, OpenCV 5 among them: cv2.error. Older ones cut
    the fraction off, as is done here.
    """

    def make(original):
        def add_jpg_compression(img, quality=90):
            return original(img, int(quality))

        return add_jpg_compression

    wrap(degradations, 'add_jpg_compression', make)


PATCHES = (jpg_compression,)
