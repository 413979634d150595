"""Frames in, frames out: run a network of the registry over a clip of any length, in constant memory."""

# Imported before the first module of this folder starts: the hook imports them all at the end of BasicSR's import.
import basicsr  # noqa: F401

from basicsr_plugins.inference.engine import upscale_frames
from basicsr_plugins.inference.settings import UpscaleSettings

__all__ = ['UpscaleSettings', 'upscale_frames']
