"""Upscale a video file, or a folder of images, into another: the network, the engine and the files brought together."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import nn

from basicsr_plugins.errors import InputError
from basicsr_plugins.files import IMAGE_SUFFIXES
from basicsr_plugins.inference.engine import notes_on
from basicsr_plugins.inference.exported import Export
from basicsr_plugins.inference.runtimes import on_runtime
from basicsr_plugins.inference.settings import UpscaleSettings
from basicsr_plugins.models.entries import NetworkEntry, parse_network, read_entry
from basicsr_plugins.models.network_spec import fit_scale, spec_of, untrained_note
from basicsr_plugins.models.restoration import restore_frames
from basicsr_plugins.models.shipped_weights import find_weights, list_shipped
from basicsr_plugins.output_size import OutputSize, set_scale
from basicsr_plugins.refusals import refusing
from basicsr_plugins.scales import Scale, scaled_size, true_scale
from basicsr_plugins.upscaling_run import Notes, run
from basicsr_plugins.video.film_target import CONTAINERS
from basicsr_plugins.video.media import Source, VideoSettings
from basicsr_plugins.video.opening import open_source, open_target, size_multiples
from basicsr_plugins.video.work_folder import COMPARED

WEIGHTS_FOR = {  # what is upscaled -> shipped weights, the best first
    'film': ('efar-s-video', 'rt-video', 'efar-s-bicubic'),
    'film on a CPU': ('rt-video', 'efar-s-video', 'efar-s-bicubic'),
    'images': ('efar-s-bicubic', 'efar-s-video', 'rt-video'),
}


def load_network(
    weights: str | os.PathLike | None,
    network: str | None = None,
    device: str = 'auto',
    scale: Scale | None = None,
    runtime: str = 'torch',
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """A trained network, ready to upscale.

    Args:
        weights: The name of shipped weights, or a file; `params_ema` are taken first. None for a network without any.
            Or the folder of an exported network, which says all itself.
        network: `TYPE[:KEY=VALUE,...]` or an option file. None: what the weights say (`models.entries.read_entry`): a
            .safetensors file itself, or the option file in the experiment's folder
            (`experiments/NAME/models/net_g_*.pth`), or their keys.
        device: `auto` (CUDA where there is any), `cpu`, `cuda`, `cuda:1` ...
        scale: Of a network that makes any (BasicAVSR, TOFlow), as its own; None for its usual one.
        runtime: What runs it, as in `inference.runtimes.on_runtime`: `torch`, `openvino`, `onnxruntime`, `tensorrt`,
            or `auto` for the fastest that is there.
        dtype: In which another runtime than PyTorch computes; PyTorch's is that of `UpscaleSettings`.

    Raises:
        InputError: If there is no such network, file or runtime, or the weights are another network's.
    """
    if weights is not None and Path(weights).is_dir():
        if network is not None:
            raise InputError(f'{weights} is the folder of an exported network; name no network beside it.')
        return on_runtime(Export(Path(weights)), runtime, dtype)
    net = _entry(weights, network).build().to(choose_device(device))
    if scale is not None:
        fit_scale(net, scale)
    return on_runtime(net, runtime, dtype)


def _entry(weights: str | os.PathLike | None, network: str | None) -> NetworkEntry:
    if network is not None:
        entry = parse_network(network)
        if weights is not None:
            entry.checkpoint = find_weights(weights)
    elif weights is not None:
        entry = read_entry(str(weights), {'checkpoint': str(weights)})
    else:
        raise InputError('name a network, its weights, or both.')
    if entry.checkpoint is None and any(True for _ in entry.build().parameters()):
        raise InputError(f'{entry.name} needs its weights: give a checkpoint.')
    return entry


def choose_weights(source: str | os.PathLike, device: str = 'auto') -> tuple[str, str | None]:
    """The shipped weights for what is upscaled: those made for it first, then others that are there.

    Args:
        source: A video file, a folder or a glob of images.
        device: As in `load_network`.

    Returns:
        Their name; and a sentence that names better ones where these were taken because they are fast.

    Raises:
        InputError: If none are shipped, or the device cannot be used.
    """
    kind = 'images'
    if Path(source).is_file() and Path(source).suffix.lower() not in IMAGE_SUFFIXES:
        kind = 'film on a CPU' if choose_device(device).type == 'cpu' else 'film'
    shipped = list_shipped()
    known = [name for name in WEIGHTS_FOR[kind] if name in shipped]
    if not known:
        raise InputError('no weights are shipped with this version: give a checkpoint, and its network if need be.')
    better = WEIGHTS_FOR['film'][0]
    if kind == 'film on a CPU' and known[0] != better and better in shipped:
        return known[0], f'{known[0]} is taken, as there is no GPU; {better} is slower and better.'
    return known[0], None


def choose_device(name: str) -> torch.device:
    """The device that `auto` or another name means.

    Raises:
        InputError: If it cannot be used.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
        if name == 'cuda' and 'LOCAL_RANK' in os.environ:  # of several processes each has its own
            name = f'cuda:{int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count()}'
    try:
        tensor = torch.empty(0, device=name)
        tensor.cpu()  # some devices hold no values
        return tensor.device
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without CUDA
        raise InputError(f'device {name} cannot be used: {str(error).splitlines()[0]}') from error


def upscale(
    net: nn.Module,
    source: str | os.PathLike,
    output: str | os.PathLike,
    settings: UpscaleSettings | None = None,
    video: VideoSettings | None = None,
    resume: bool = False,
    force: bool = False,
    compare: str | os.PathLike | None = None,
    show_progress: bool = True,
    output_size: OutputSize | None = None,
) -> list[str]:
    """Upscale a video file, a folder or a glob of images.

    Args:
        net: As `load_network` gives it.
        source: What to upscale.
        output: A video file (.mp4, .mkv, .mov), or a folder for PNGs.
        settings: How; default: `UpscaleSettings()`. Without a `temp_dir`, temporary files, and the network's states
            for `resume`, are beside the output.
        video: How the output is written.
        resume: Go on from what an interrupted run left.
        force: Overwrite an output that is there.
        compare: Another output: bicubic at the left, the network's at the right.
        show_progress: Whether a bar shows frames, frames per second and the time left; notes are shown as they come.
        output_size: Of the frames; None: by the network's scale. A network of any scale is set to it; frames of
            others are resized.

    Returns:
        Sentences about what a user should know: what was left out, where a damaged source ended.

    Raises:
        InputError: If the source cannot be read, the output cannot be written, another process is writing it, or memory
            is too small for a frame. What is done stays for `resume`.
    """
    if compare is not None and os.path.realpath(compare) == os.path.realpath(output):
        raise InputError(f'{compare} is the output itself; name another file for the comparison.')
    reader = open_source(source)
    settings = settings or UpscaleSettings()
    job = describe_job(net, settings)
    video, time_scale = video or VideoSettings(), spec_of(net).time_scale
    options = {'settings': video, 'resume': resume, 'force': force, 'job': job, 'time_scale': time_scale}
    notes = Notes(show_progress)
    scale = choose_scale(net, output, reader, video, output_size or OutputSize(), notes)
    height, width = scaled_size(reader.size, scale)
    with contextlib.ExitStack() as stack:
        # left in the reverse order: the output itself is closed last, and where it is, all is done
        target = stack.enter_context(open_target(output, reader, scale, **options))
        target.pair_with(compare)
        compared = target.parts / COMPARED
        targets = [target]
        if compare is not None and compared.is_file() and Path(compare).exists():
            notes.add(f'{compare} is there already and was kept.')
        elif compare is not None:
            beside = open_target(compare, reader, scale, size=(height, 2 * width), **options)
            stack.push(lambda kind, *_: compared.touch() if kind is None else None)
            targets.append(stack.enter_context(beside))
        reader.any_size = all(one.any_size for one in targets)
        for one in targets:
            notes.add(*one.notes)
        notes.add(*reader.notes, *notes_on(net, settings))
        keep = target.states_folder(settings.temp_dir)
        settings = replace(settings, temp_dir=settings.temp_dir or target.parts)
        run(net, reader, targets, settings, keep, scale, notes, show_progress)
        notes.add(*(note for one in targets for note in one.notes), *reader.notes)
    if reader.damage:
        notes.add(reader.damage)
    return notes.texts


def choose_scale(
    net: nn.Module, output: str | os.PathLike, source: Source, video: VideoSettings, asked: OutputSize, notes: Notes
) -> Scale:
    """The scale of a run, set in a network that makes any.

    Raises:
        InputError: If the size cannot be made of the source's frames.
    """
    own = network_scale(net)
    is_own = asked == OutputSize()
    if is_own:
        asked = OutputSize(scale=own)
    size = asked.of(source, size_multiples(output, source, video))
    if is_own and size == scaled_size(source.size, own):
        notes.add(*untrained_note(net, own))
        return own
    scale = true_scale(source.size, size)
    keeps_shape = source.is_video and Path(output).suffix.lower() in CONTAINERS
    notes.add(*asked.notes_on(source, size, keeps_shape), *set_scale(net, own, scale, source.size))
    return scale


def describe_job(net: nn.Module, settings: UpscaleSettings) -> dict[str, str]:
    """What frames depend on beside their source: a run is not resumed with another one."""
    runtime = getattr(net, 'runtime', 'torch')
    job = {'network': type(net).__name__, 'runtime': runtime, 'weights': network_identity(net)}
    return job | {
        one.name: str(getattr(settings, one.name)) for one in fields(settings) if not one.name.endswith('_dir')
    }


def network_identity(net: nn.Module) -> str:
    """A hash of a network's layers, arguments and weights, after the name of its class."""
    content = hashlib.sha256(repr(net).encode())
    for name, module in net.named_modules():  # arguments that neither layers nor weights show
        said = {key: value for key, value in vars(module).items() if isinstance(value, (bool, int, float, str))}
        content.update(repr((name, sorted(said.items()))).encode())
    for name, value in net.state_dict().items():
        content.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return f'{type(net).__name__} {content.hexdigest()[:16]}'


@torch.no_grad()
def network_scale(net: nn.Module) -> Scale:
    """How many times a network enlarges: what it says, or what it makes of a tiny frame."""
    scale = spec_of(net).scale
    if scale is None:
        tiny = torch.zeros(1, 3, 64, 64)
        with refusing(f'{type(net).__name__} does not upscale a frame', type(net)):
            scale = next(restore_frames(net, tiny)).size(-1) // tiny.size(-1)
    return scale
