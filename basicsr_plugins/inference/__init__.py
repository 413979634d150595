"""Upscale a film of any length with a network of the registry, in memory that does not grow with its length."""

# Imported before the first module of this room starts: the hook imports them all at the end of BasicSR's import.
import basicsr  # noqa: F401

from basicsr_plugins.inference.engine import UpscaleSettings, upscale_frames
from basicsr_plugins.inference.film import load_network, upscale
from basicsr_plugins.inference.media import VideoSettings

__all__ = ['UpscaleSettings', 'VideoSettings', 'load_network', 'upscale', 'upscale_frames']
