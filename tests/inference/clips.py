"""Real clips for the tests."""

import cv2
import torch


def load_clip(folder):
    """(t, 3, h, w), RGB in [0, 1]."""
    images = [cv2.imread(str(path))[..., ::-1].copy() for path in sorted(folder.glob('*.png'))]
    return torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images]).float() / 255
