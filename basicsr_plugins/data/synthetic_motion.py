"""Generated clips with known motion: pictures that pan, zoom and roll, one before the other, behind soft outlines.

A clip is a list of layers from back to front. The convention is that of `demo_data`: coordinates are (x, y), integers
at pixel centres, and `gt_to_picture[t]` is the affine that takes a pixel of GT frame t to the layer's picture. A
picture has about two pixels for one GT pixel; it is low-passed for the frame's own zoom before the frame is sampled
from it, so GT is sharp and free of aliases, and no frame is sharper than another.

Shapes: t frames, (h, w) GT size, s the scale, (h / s, w / s) LR size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from basicsr_plugins.data.demo_data import pixel_grid, smooth_path, transform
from basicsr_plugins.data.synthetic_photos import read_photograph
from basicsr_plugins.data.synthetic_pictures import PICTURES, random_words, text_mask

DENSITY = 2.0  # procedural picture pixels for a GT pixel
PHOTO_SHARE = 0.5
LARGEST = 1024  # pixels a side, of a picture; beyond it is mirrored
FAR = 1e5  # GT pixels; `smooth_path` is then limited by the speed alone
MAX_ZOOM = 0.35  # natural logarithm, of a whole clip


@dataclass
class Layer:
    """A picture and its motion.

    Args:
        picture: (h, w, 3) RGB float32 in [0, 255], mirrored beyond its borders; or (h, w, 4), where the last channel is
            the opacity in [0, 1] and the colours are multiplied by it, transparent beyond its borders.
        gt_to_picture: (t, 2, 3).
    """

    picture: np.ndarray
    gt_to_picture: np.ndarray
    _low_passed: dict = field(default_factory=dict)

    def sample(self, t: int, size: tuple[int, int]) -> np.ndarray:
        """What GT frame t of `size` (h, w) shows of it, (h, w, 3 or 4) float32."""
        affine = self.gt_to_picture[t]
        density = float(np.sqrt(abs(np.linalg.det(affine[:, :2]))))
        level = max(0, round(8 * np.log2(density)))  # within 5 % of the density
        if level not in self._low_passed:
            self._low_passed[level] = low_pass(self.picture, 2 ** (level / 8))
        # cubic interpolation is good enough for what was low-passed well below the picture's own limit
        interpolation = cv2.INTER_CUBIC if density > 1.5 else cv2.INTER_LANCZOS4
        border = cv2.BORDER_REFLECT_101 if self.picture.shape[2] == 3 else cv2.BORDER_CONSTANT
        return cv2.warpAffine(
            self._low_passed[level], affine, size[::-1], flags=interpolation | cv2.WARP_INVERSE_MAP, borderMode=border
        )


def low_pass(picture: np.ndarray, density: float) -> np.ndarray:
    """Take away what a grid `density` times coarser cannot show, with the cubic kernel of MATLAB's imresize."""
    reach = int(np.ceil(2 * density)) - 1
    x = np.abs(np.arange(-reach, reach + 1)) / density
    kernel = np.where(x <= 1, (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2) if reach else np.ones(1)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    return cv2.sepFilter2D(picture, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)


@dataclass(frozen=True)
class Material:
    """What clips are made from: `photos`, see `photograph_files`, perhaps none, and names of `PICTURES`."""

    photos: tuple[tuple[str, float, float], ...]
    kinds: tuple[str, ...]

    def picture(self, rng: np.random.Generator, h: int, w: int, size: float) -> tuple[np.ndarray, float]:
        """A picture, in any of 4 (procedural) or 8 (photograph) orientations and colours, and its density.

        Args:
            rng: Decides everything.
            h, w: How much must be seen, in GT pixels.
            size: Side of the GT frames.

        Returns:
            (h', w', 3) RGB float32, and its pixels for one GT pixel.
        """
        transposed = rng.random() < 0.15
        if transposed:
            h, w = w, h
        if not self.kinds or (self.photos and rng.random() < PHOTO_SHARE):
            weights = np.array([weight for _, _, weight in self.photos])
            path, sharp, _ = self.photos[rng.choice(len(weights), p=weights / weights.sum())]
            picture, density = part_of_photograph(rng, path, sharp, h, w, size)
            picture = recoloured(rng, picture)
        else:
            kind = PICTURES[self.kinds[rng.integers(len(self.kinds))]]
            picture, density = kind(rng, *(min(LARGEST, int(DENSITY * side) + 8) for side in (h, w))), DENSITY
        picture = picture.transpose(1, 0, 2) if transposed else picture
        mirrored = rng.random(2) < [0.15, 0.5]  # up and down mean something in most pictures
        picture = picture[:: 1 - 2 * mirrored[0], :: 1 - 2 * mirrored[1]]
        return np.ascontiguousarray(picture, np.float32), density


def part_of_photograph(
    rng: np.random.Generator, path: str, sharp: float, h: int, w: int, size: float
) -> tuple[np.ndarray, float]:
    """(h', w', 3) uint8 of a photograph, mirrored beyond its borders, that shows (h, w) GT pixels; and its density."""
    levels = read_photograph(path)
    largest = max(1.8 * sharp, 0.8 * min(levels[0].shape[:2]) / size)
    density = sharp * (largest / sharp) ** rng.random()
    level = min(len(levels) - 1, max(0, int(np.log2(density / 1.5))))
    photo, density = levels[level], density / 2**level
    part = np.minimum(LARGEST, np.array([h, w]) * density + 8).astype(int)
    room = np.array(photo.shape[:2]) - part
    start = np.where(room >= 0, rng.integers(0, np.maximum(room, 0) + 1), room // 2)
    first, last = np.maximum(start, 0), np.minimum(start + part, photo.shape[:2])
    picture = photo[first[0] : last[0], first[1] : last[1]]
    (top, left), (bottom, right) = first - start, start + part - last
    if max(top, left, bottom, right) > 0:
        picture = cv2.copyMakeBorder(picture, top, bottom, left, right, cv2.BORDER_REFLECT_101)
    return picture, density


def recoloured(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Another contrast, brightness, saturation and white balance; (h, w, 3) uint8 to float32 in [0, 255]."""
    mean = float(picture.mean())
    grey = np.full((3, 3), 1 / 3)
    saturation = rng.choice([1.0, rng.uniform(0, 1.4)])
    matrix = saturation * np.eye(3) + (1 - saturation) * grey
    matrix = np.diag(rng.uniform(0.85, 1.15, 3)) @ matrix * rng.uniform(0.7, 1.3)
    if rng.random() < 0.1:
        matrix = matrix[rng.permutation(3)]
    offset = np.full((3, 1), np.clip(rng.normal(mean, 25), 40, 215)) - matrix.sum(1, keepdims=True) * mean
    return cv2.transform(picture.astype(np.float32), np.hstack([matrix, offset])).clip(0, 255)


def make_layers(
    rng: np.random.Generator, material: Material, num_frame: int, size: tuple[int, int], max_layers: int = 3
) -> list[Layer]:
    """Invent a clip: a background and up to `max_layers` things before it.

    Args:
        rng: Decides everything.
        material: What to show.
        num_frame: t.
        size: (h, w).
        max_layers: 0 for a background alone.
    """
    num_path = max(2, num_frame)
    camera = random_path(rng, num_path, 0 if rng.random() < 0.08 else random_speed(rng))
    layers = [_background(rng, material, camera, size)]
    number = min(max_layers, int(rng.choice(4, p=[0.35, 0.35, 0.2, 0.1])))
    nearness = np.sort(rng.uniform(0.8, 2.0, number))
    for near in nearness:
        path = near * camera
        kind = rng.random()
        if kind < 0.15:  # a caption: it stands still on the screen
            path = np.zeros_like(camera)
        elif kind < 0.8:  # a thing of its own
            path = path + random_path(rng, num_path, random_speed(rng))
        layers.append(_foreground(rng, material, path, size, still=kind < 0.15))
    return [Layer(layer.picture, layer.gt_to_picture[:num_frame]) for layer in layers]


def random_speed(rng: np.random.Generator) -> float:
    """GT pixels per frame: slow as often as fast, on a scale of factors; seldom very fast."""
    return float(2 ** rng.uniform(4, 5.3) if rng.random() < 0.04 else 2 ** rng.uniform(-2, 4))


def random_path(rng: np.random.Generator, num_frame: int, speed: float) -> np.ndarray:
    """A smooth path in any direction, (t, 2), never faster than `speed`."""
    angle = rng.uniform(0, 2 * np.pi)
    return smooth_path(rng, num_frame, FAR * np.abs([np.cos(angle), np.sin(angle)]), speed)


def linear_parts(rng: np.random.Generator, num_frame: int, density: float, angle: float, still: bool) -> np.ndarray:
    """Roll about `angle` and zoom about `density`, (t, 2, 2)."""
    roll, zoom = smooth_path(rng, num_frame, np.array([FAR, FAR]), np.sqrt(2)).T  # at most 1 per frame each
    fast = (not still) * (rng.random(2) < 0.6) * rng.exponential([np.deg2rad(0.5), 0.006])
    roll = angle + roll * fast[0]
    zoom = zoom * min(fast[1], MAX_ZOOM / max(1e-6, np.abs(zoom).max()))
    scale = density * np.exp(zoom)
    parts = [scale * np.cos(roll), -scale * np.sin(roll), scale * np.sin(roll), scale * np.cos(roll)]
    return np.stack(parts, axis=1).reshape(-1, 2, 2)


def _background(rng, material, camera, size):
    """The picture covers what the camera sees, as far as `LARGEST` allows."""
    h, w = size
    small = rng.random() < 0.7
    angle = rng.normal(0, np.deg2rad(3)) if small else rng.uniform(-np.pi, np.pi)
    linear = linear_parts(rng, len(camera), 1.0, angle, still=False)
    corners = np.array([[0, 0], [w - 1, 0], [0, h - 1], [w - 1, h - 1]]) - (np.array([w, h]) - 1) / 2
    seen = np.einsum('tij,tkj->tki', linear, corners[None] - camera[:, None])
    low, high = seen.min((0, 1)) - 4, seen.max((0, 1)) + 4
    picture, density = material.picture(rng, *(high - low)[::-1], min(size))
    # the middle of what is seen goes to the middle of the picture
    middle = (np.array(picture.shape[1::-1]) - 1) / 2 - density * (low + high) / 2
    centre = (np.array([w, h]) - 1) / 2 + camera
    offset = middle[:, None] - density * linear @ centre[:, :, None]
    return Layer(picture, np.concatenate([density * linear, offset], axis=2))


def _foreground(rng, material, path, size, still):
    h, w = (min(size) * 2 ** rng.uniform(-2.5, -0.1, 2)).round()
    picture, density = material.picture(rng, h, w, min(size))
    opacity = outline(rng, *picture.shape[:2], density)
    picture = np.dstack([picture * opacity[..., None], opacity])
    angle = 0 if still else rng.normal(0, np.deg2rad(15))
    linear = linear_parts(rng, len(path), density, angle, still)
    place = rng.uniform(0.1, 0.9, 2) * size[::-1] + path
    offset = ((np.array(picture.shape[1::-1]) - 1) / 2)[:, None] - linear @ place[:, :, None]
    return Layer(picture, np.concatenate([linear, offset], axis=2))


def outline(rng: np.random.Generator, h: int, w: int, density: float) -> np.ndarray:
    """The opacity of a thing: round, angular, bars or letters, with a hard or a soft edge; (h, w) float32 in [0, 1]."""
    kind = rng.choice(['round', 'angular', 'bars', 'letters'], p=[0.45, 0.25, 0.15, 0.15])
    if kind == 'letters':
        mask = text_mask(rng, h, w, random_words(rng, 3))
    else:
        mask = np.zeros((h, w), np.uint8)
        if kind == 'bars':
            for start in np.arange(4, w - 4, rng.uniform(6, 40) * density):
                ends = [(start, 4), (np.clip(start + rng.normal(0, 8), 4, w - 4), h - 4)]
                ends = [tuple(np.int32(np.array(end) * 16).tolist()) for end in ends]
                cv2.line(mask, *ends, 255, max(1, int(rng.uniform(1, 5) * density)), cv2.LINE_AA, 4)
        else:
            number = 48 if kind == 'round' else int(rng.integers(3, 7))
            angle = np.linspace(0, 2 * np.pi, number, endpoint=False) + rng.uniform(0, 6)
            radius = np.ones(number)
            for wave in range(1, 6):  # dents; fewer corners see less of them
                radius += rng.normal(0, 0.25 / wave) * np.sin(wave * angle + rng.uniform(0, 6))
            radius = radius.clip(0.2) / radius.max()
            points = np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None]
            points = (points * [w / 2 - 4, h / 2 - 4] + [w / 2, h / 2]) * 16
            cv2.fillPoly(mask, [np.int32(points)], 255, cv2.LINE_AA, 4)
    mask = mask.astype(np.float32) / 255
    if rng.random() < 0.4:  # out of focus, or moving faster than the shutter
        mask = cv2.GaussianBlur(mask, (0, 0), density * 2 ** rng.uniform(-1, 1.5))
    mask[[0, -1]] = mask[:, [0, -1]] = 0
    return mask


def render(layers: Sequence[Layer], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The frames of a clip.

    Args:
        layers: From back to front.
        size: (h, w).

    Returns:
        Frames (t, h, w, 3) RGB uint8; opacity (t, n, h, w) float32 in [0, 1] of the n layers before the background.
    """
    num_frame = len(layers[0].gt_to_picture)
    frames = np.empty((num_frame, *size, 3), np.uint8)
    opacity = np.empty((num_frame, len(layers) - 1, *size), np.float32)
    for t in range(num_frame):
        frame = layers[0].sample(t, size)
        for number, layer in enumerate(layers[1:]):
            image = layer.sample(t, size)
            opacity[t, number] = image[..., 3].clip(0, 1)
            frame *= 1 - opacity[t, number][..., None]
            frame += image[..., :3]
        frames[t] = np.rint(frame, out=frame).clip(0, 255)
    return frames, opacity


def lr_flow(layers: Sequence[Layer], opacity: np.ndarray, t: int, s: int, scale: int) -> np.ndarray:
    """Flow from LR frame t to LR frame s.

    An LR pixel lies in the middle of `scale` x `scale` GT pixels, which an affine moves: their mean flow is its own. It
    follows the frontmost layer that hides more than half of the pixel; where frame s does not show the point, too.

    Args:
        layers: From back to front.
        opacity: From `render`.
        t: Frame of the pixels.
        s: Frame in which to find them.
        scale: s.

    Returns:
        (2, h / s, w / s) float32 in LR pixels, channel 0 = x: sampling LR frame s at x + flow(x) gives LR frame t.
    """
    h, w = (side // scale for side in opacity.shape[2:])
    grid = pixel_grid(h, w)
    in_gt = scale * grid + (scale - 1) / 2
    hidden = opacity[t].reshape(-1, h, scale, w, scale).mean((2, 4)) > 0.5
    flow = np.zeros((2, h, w), np.float32)
    for number, layer in enumerate(layers):
        back = cv2.invertAffineTransform(layer.gt_to_picture[s])
        moved = (transform(back, transform(layer.gt_to_picture[t], in_gt)) - in_gt) / scale
        flow = moved.astype(np.float32) if number == 0 else np.where(hidden[number - 1], moved, flow)
    return flow.astype(np.float32)
