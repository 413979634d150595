"""Frames in, frames out: run a network of the registry over a clip of any length, in constant memory."""

from basicsr_plugins.inference.engine import UpscaleSettings, upscale_frames

__all__ = ['UpscaleSettings', 'upscale_frames']
