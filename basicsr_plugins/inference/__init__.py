"""Frames in, frames out: run a network of the registry over a clip of any length, in constant memory."""

from basicsr_plugins.inference.engine import upscale_frames
from basicsr_plugins.inference.settings import UpscaleSettings

__all__ = ['UpscaleSettings', 'upscale_frames']
