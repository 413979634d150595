"""A demo dataset in REDS layout, made on the spot from the photographs that ship inside scikit-image.

    <root>/GT/<clip>/00000000.png ...       8-bit, sharp and free of aliases
    <root>/BIx4/<clip>/00000000.png ...     MATLAB-bicubic x4 of it
    <root>/motion/<clip>.json               the motion that made it, exactly
    <root>/demo_data.json                   seed, scale and clip lengths

A clip is a camera that pans, zooms and rolls smoothly over one photograph, with a cut-out of a second photograph moving
before it. No photograph of a held-out clip (`HELD_OUT`) is seen in a training clip.

Convention of the motion: coordinates are (x, y), x to the right, y down, integers at pixel centres. Layers run from
back to front; `gt_to_photo[t]` is the 2x3 affine that takes a pixel of GT frame t to the photograph of the layer, so a
point that shows at x in frame t shows at `inverse(gt_to_photo[s]) @ gt_to_photo[t] @ x` in frame s. `motion_flow` gives
that as flow in GT pixels, channel 0 = x, the convention of the toolbox's `flow_warp`.

Shapes: t frames, (h, w) GT size.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from basicsr_plugins.data.bicubic_lr import bicubic_downsample
from basicsr_plugins.data.meta_info import StrPath
from basicsr_plugins.errors import InputError

VERSION = 1
SCALE = 4
SUPERSAMPLE = 2
# Half-band low-pass (a cubic at 1/2), before every second pixel of the supersampled frame is dropped.
HALF_BAND = np.array([-1, 0, 9, 16, 9, 0, -1], np.float32) / 32
MAX_ROLL = np.deg2rad(1.5)
MAX_ZOOM = 0.04
SOFT_EDGE = 4.0


@dataclass(frozen=True)
class CutOut:
    """An ellipse of a photograph: centre and radii (x, y) in its pixels, photograph pixels per GT pixel."""

    photograph: str
    centre: tuple[float, float]
    radii: tuple[float, float]
    scale: float = 1.0


@dataclass(frozen=True)
class Clip:
    """What a clip shows: GT `size` (h, w), `scale` as in `CutOut`, fastest `speed` of the pan, GT pixels per frame."""

    name: str
    photograph: str
    size: tuple[int, int]
    num_frame: int
    scale: float
    speed: float
    cut_out: CutOut


CUP = CutOut('coffee.png', (285, 160), (120, 110), 1.8)
CAT = CutOut('chelsea.png', (205, 115), (110, 95), 1.8)
PORTRAIT = CutOut('astronaut.png', (225, 115), (85, 100), 1.6)
HEADLIGHT = CutOut('motorcycle_left.png', (560, 130), (110, 100), 1.7)
PAGE = CutOut('page.png', (192, 95), (150, 85), 1.7)
COINS = CutOut('coins.png', (190, 150), (110, 110), 1.9)
WRITING = CutOut('text.png', (180, 86), (110, 75), 1.6)
BRICKS = CutOut('brick.png', (256, 256), (130, 110), 2.0)
TISSUE = CutOut('ihc.png', (170, 190), (120, 120), 2.0)
CAMERA_MAN = CutOut('camera.png', (220, 130), (110, 120), 1.9)

CLIPS = (
    Clip('000', 'astronaut.png', (256, 320), 20, 1.3, 3.0, CUP),
    Clip('001', 'coffee.png', (256, 320), 16, 1.3, 4.0, CAT),
    Clip('002', 'chelsea.png', (256, 256), 24, 1.05, 2.0, PORTRAIT),
    Clip('003', 'motorcycle_left.png', (256, 384), 30, 1.4, 3.0, PAGE),
    Clip('004', 'motorcycle_right.png', (320, 320), 24, 1.2, 5.0, COINS),
    Clip('005', 'rocket.jpg', (256, 320), 18, 1.3, 3.0, TISSUE),
    Clip('006', 'camera.png', (256, 256), 22, 1.5, 4.0, WRITING),
    Clip('007', 'ihc.png', (256, 256), 15, 1.6, 6.0, HEADLIGHT),
    Clip('008', 'brick.png', (256, 256), 20, 1.5, 2.0, CAMERA_MAN),
    Clip('009', 'gravel.png', (256, 256), 16, 1.6, 3.0, PAGE),
    Clip('010', 'grass.png', (256, 256), 16, 1.7, 2.0, BRICKS),
    Clip('011', 'hubble_deep_field.jpg', (256, 256), 17, 1.6, 4.0, TISSUE),
    Clip('012', 'coins.png', (256, 256), 25, 1.05, 1.5, HEADLIGHT),
)
HELD_OUT = ('000', '001', '002')


def make_demo_data(root: StrPath, seed: int = 0, clips: Sequence[Clip] = CLIPS, num_thread: int = 2) -> bool:
    """Make the demo dataset under `root`; where it is whole already, do nothing.

    Args:
        root: Folder of the dataset. It is replaced as a whole when it is a demo dataset of another seed or
            version or lacks a frame; a folder of anything else is left alone.
        seed: The same seed gives the same files.
        clips: What to make.
        num_thread: Clips made at the same time.

    Returns:
        Whether anything was made.

    Raises:
        InputError: `root` exists and is no demo dataset, or scikit-image or one of its photographs is missing.
    """
    root = Path(root)
    content = {'version': VERSION, 'seed': seed, 'scale': SCALE, 'clips': {c.name: c.num_frame for c in clips}}
    if is_whole(root, content):
        return False
    if root.exists() and any(root.iterdir()) and not (root / 'demo_data.json').is_file():
        raise InputError(f'{root} holds something else than a demo dataset; name another folder or move it away.')
    names = {name for c in clips for name in (c.photograph, c.cut_out.photograph)}
    photographs = {name: read_photograph(name) for name in sorted(names)}

    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}_', dir=root.parent) as temporary:
        folder = Path(temporary) / 'new'
        (folder / 'motion').mkdir(parents=True)
        with tqdm(total=sum(c.num_frame for c in clips), unit='frame', desc='demo clips') as progress:

            def make(clip):
                make_clip(folder, clip, photographs, seed, progress)

            with ThreadPoolExecutor(num_thread) as pool:
                list(pool.map(make, clips))
        write_json(folder / 'demo_data.json', content)
        if root.exists():
            root.rename(Path(temporary) / 'old')
        folder.rename(root)
    return True


def is_whole(root: Path, content: Mapping) -> bool:
    """Whether `root` holds every file of the dataset that `content` describes."""
    manifest = root / 'demo_data.json'
    if not manifest.is_file() or json.loads(manifest.read_text()) != content:
        return False
    return all(
        (root / 'motion' / f'{name}.json').is_file()
        and all(len(list((root / kind / name).glob('*.png'))) == num_frame for kind in ('GT', f'BIx{SCALE}'))
        for name, num_frame in content['clips'].items()
    )


def read_photograph(name: str) -> np.ndarray:
    """A photograph from the scikit-image wheel (`skimage.data` itself would download what the wheel lacks).

    Returns:
        (h, w, 3) BGR float32 in [0, 255]; a grey one three times.
    """
    try:
        import skimage.io
    except ImportError as error:
        raise InputError('the demo dataset needs scikit-image; install it with pip.') from error
    path = Path(skimage.__file__).parent / 'data' / name
    try:
        image = skimage.io.imread(path)
    except (OSError, ValueError) as error:
        raise InputError(f'{path} is missing or damaged; install scikit-image again.') from error
    bgr = image[..., ::-1] if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    return bgr.astype(np.float32)


def make_clip(folder: Path, clip: Clip, photographs: Mapping[str, np.ndarray], seed: int, progress: tqdm) -> None:
    """Write the frames and the motion of one clip under `folder`."""
    motion = make_motion(clip, photographs[clip.photograph].shape[:2], np.random.default_rng([seed, int(clip.name)]))
    write_json(folder / 'motion' / f'{clip.name}.json', motion)
    for kind in ('GT', f'BIx{SCALE}'):
        (folder / kind / clip.name).mkdir(parents=True)
    for t in range(clip.num_frame):
        gt = render_frame(motion, t, photographs)
        write_png(folder / 'GT' / clip.name / f'{t:08d}.png', gt)
        write_png(folder / f'BIx{SCALE}' / clip.name / f'{t:08d}.png', bicubic_downsample(gt, SCALE))
        progress.update()


def make_motion(clip: Clip, photo_size: tuple[int, int], rng: np.random.Generator) -> dict:
    """Sample the motion of a clip: the camera over the photograph, the cut-out before it.

    Returns:
        What `motion/<clip>.json` holds: `size` [h, w], `num_frame`, `layers` from back to front, each with
        `photograph`, `outline` (none, or `centre` and `radii` of the ellipse and the width of its soft `edge`, in
        photograph pixels) and `gt_to_photo` (t, 2, 3).
    """
    height, width = clip.size
    # How far the view may move with every corner inside the photograph, whatever roll and zoom do.
    span = clip.scale * (1 + MAX_ZOOM) * (np.cos(MAX_ROLL) * np.eye(2) + np.sin(MAX_ROLL) * np.eye(2)[::-1])
    photo_centre = (np.array(photo_size[::-1]) - 1) / 2
    reach = (photo_centre - span @ [width / 2, height / 2]) / clip.scale
    if reach.min() < 0:
        raise InputError(f'clip {clip.name}: a view of {width}x{height} does not fit into {clip.photograph}.')
    middle = (np.array([width, height]) - 1) / 2

    pan = photo_centre + clip.scale * smooth_path(rng, clip.num_frame, reach, clip.speed)
    camera = affines(rng, clip.num_frame, clip.scale, pan, np.tile(middle, (clip.num_frame, 1)))

    cut_out = clip.cut_out
    place = middle + smooth_path(rng, clip.num_frame, np.array([width, height]) / 3, 1.5 * clip.speed)
    held = np.tile(np.array(cut_out.centre, float), (clip.num_frame, 1))
    foreground = affines(rng, clip.num_frame, cut_out.scale, held, place)
    outline = {'centre': list(cut_out.centre), 'radii': list(cut_out.radii), 'edge': SOFT_EDGE * cut_out.scale}
    return {
        'size': [height, width],
        'num_frame': clip.num_frame,
        'layers': [
            {'photograph': clip.photograph, 'outline': None, 'gt_to_photo': camera.tolist()},
            {'photograph': cut_out.photograph, 'outline': outline, 'gt_to_photo': foreground.tolist()},
        ],
    }


def smooth_path(rng: np.random.Generator, num_frame: int, reach: np.ndarray, speed: float) -> np.ndarray:
    """A smooth random path around the origin: a wide swing, a smaller and faster one, and the shake of a hand.

    Args:
        reach: Farthest from the origin, (x, y).
        speed: Fastest step between two frames, in the same unit.

    Returns:
        (t, 2), x and y.
    """
    cycles = rng.uniform([[0.4], [1.0], [4.0]], [[0.8], [2.0], [6.0]], (3, 2))  # per 30 frames
    phase = rng.uniform(0, 2 * np.pi, (3, 2))
    time = np.arange(num_frame)[:, None, None] / 30
    path = (np.array([[1.0], [0.3], [0.03]]) * np.sin(2 * np.pi * cycles * time + phase)).sum(1)
    path -= (path.max(0) + path.min(0)) / 2
    path *= reach / np.abs(path).max(0)
    return path * min(1, speed / np.linalg.norm(np.diff(path, axis=0), axis=1).max())


def affines(
    rng: np.random.Generator, num_frame: int, scale: float, photo_centre: np.ndarray, gt_centre: np.ndarray
) -> np.ndarray:
    """Affines that zoom by about `scale` and roll a little, and take `gt_centre[t]` to `photo_centre[t]`: (t, 2, 3)."""
    # roll and zoom ride on one path each, slow enough that a corner moves by about a pixel per frame
    roll, zoom = smooth_path(rng, num_frame, np.ones(2), 0.15).T
    angle, size = MAX_ROLL * roll, scale * (1 + MAX_ZOOM * zoom)
    linear = np.stack([size * np.cos(angle), -size * np.sin(angle), size * np.sin(angle), size * np.cos(angle)], 1)
    linear = linear.reshape(-1, 2, 2)
    offset = photo_centre[:, :, None] - linear @ gt_centre[:, :, None]
    return np.concatenate([linear, offset], 2)


def render_frame(motion: Mapping, t: int, photographs: Mapping[str, np.ndarray]) -> np.ndarray:
    """GT frame t, (h, w, 3) BGR uint8: the layers sampled at twice the resolution, one over the other, then halved."""
    height, width = motion['size']
    size = (SUPERSAMPLE * width, SUPERSAMPLE * height)
    frame = None
    for layer in motion['layers']:
        to_photo = np.array(layer['gt_to_photo'][t], np.float64)
        to_photo[:, :2] /= SUPERSAMPLE  # supersampled pixel 2 x lies on GT pixel x
        flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
        image = cv2.warpAffine(
            photographs[layer['photograph']], to_photo, size, flags=flags, borderMode=cv2.BORDER_REFLECT_101
        )
        alpha = opacity(layer['outline'], to_photo, size)
        frame = image if frame is None else frame + alpha[..., None] * (image - frame)
    frame = cv2.sepFilter2D(frame, -1, HALF_BAND, HALF_BAND)[::SUPERSAMPLE, ::SUPERSAMPLE]
    return frame.round().clip(0, 255).astype(np.uint8)


def opacity(outline: Mapping | None, to_photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """How far the cut-out hides what lies behind: (h, w) float32 in [0, 1], for a grid of `size` (w, h)."""
    if outline is None:
        return np.ones(size[::-1], np.float32)
    grid = transform(to_photo, pixel_grid(size[1], size[0]))
    radii = np.array(outline['radii'], np.float32)[:, None, None]
    distance = np.linalg.norm((grid - np.array(outline['centre'], np.float32)[:, None, None]) / radii, axis=0)
    inside = np.clip(0.5 + (1 - distance) * radii.min() / outline['edge'], 0, 1)
    return inside * inside * (3 - 2 * inside)


def pixel_grid(height: int, width: int) -> np.ndarray:
    """Pixel centres, (2, h, w) float32, channel 0 = x."""
    return np.stack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)))


def transform(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a 2x3 affine to (2, h, w) points, in float64 for the sake of sub-pixel flow."""
    affine = np.asarray(affine, np.float64)
    return np.einsum('ij,jhw->ihw', affine[:, :2], points) + affine[:, 2, None, None]


def load_motion(root: StrPath, clip: str) -> dict:
    """Read `motion/<clip>.json` of a demo dataset; see `make_motion` for what it holds."""
    path = Path(root) / 'motion' / f'{clip}.json'
    if not path.is_file():
        raise InputError(f'{path} is missing; make the demo dataset with scripts/data_preparation/make_demo_data.py.')
    return json.loads(path.read_text())


def motion_flow(motion: Mapping, t: int, s: int) -> tuple[np.ndarray, np.ndarray]:
    """Ground-truth flow from frame t to frame s, and which layer it follows at each pixel of frame t.

    Sampling frame s at x + flow(x) gives frame t wherever the layer is visible in both frames.

    Args:
        motion: From `load_motion`.
        t: Frame of the pixels.
        s: Frame in which to find them.

    Returns:
        Flow (2, h, w) float32 in GT pixels, channel 0 = x; layer (h, w) int64, 0 = background.
    """
    height, width = motion['size']
    grid = pixel_grid(height, width)
    flow = np.zeros((2, height, width), np.float32)
    layer_map = np.zeros((height, width), np.int64)
    for index, layer in enumerate(motion['layers']):
        at_t, at_s = (np.array(layer['gt_to_photo'][i]) for i in (t, s))
        visible = opacity(layer['outline'], at_t, (width, height)) > 0.5
        moved = transform(cv2.invertAffineTransform(at_s), transform(at_t, grid)) - grid
        flow = np.where(visible, moved, flow).astype(np.float32)
        layer_map[visible] = index
    return flow, layer_map


def write_png(path: Path, image: np.ndarray) -> None:
    if not cv2.imwrite(str(path), image):
        raise InputError(f'{path} cannot be written.')


def write_json(path: Path, content: Mapping) -> None:
    path.write_text(json.dumps(content) + '\n')
