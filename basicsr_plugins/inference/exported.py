"""A network as a folder of ONNX files, which needs neither PyTorch nor this package to run.

manifest.json       what the network is and takes, its files and their checksums
forward_step.onnx   each step, and as `_first`, `_last`, `_only` where a neighbour is missing (see `write_export`)
weights.bin         the weights of all of them, each once
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

import basicsr_plugins
from basicsr_plugins.archs.recurrent import CAME_FROM, NEIGHBOURS, State
from basicsr_plugins.errors import InputError, one_line
from basicsr_plugins.files import write_atomically
from basicsr_plugins.inference.replaced_steps import ReplacedSteps, inputs_of_steps
from basicsr_plugins.inference.tracing import OPSET, WHOLE, flatten, trace
from basicsr_plugins.models.network_spec import FIELDS, NetworkSpec, spec_of
from basicsr_plugins.models.restoration import prepare_lq, run_sequence

FORMAT = 1
MANIFEST, WEIGHTS = 'manifest.json', 'weights.bin'
LARGE = 1024  # bytes; smaller constants stay in the graph
SIDE = 64  # of the frames from which it is read what the steps take


@torch.no_grad()
def write_export(net: nn.Module, folder: Path, force: bool = False) -> list[Path]:
    """Export a network: of sequences step by step, of windows or images as one file.

    A graph has no optional inputs. Where something does not exist (`None`: the states at the start of a pass, what
    belongs to a frame beyond the clip), the step has a file of its own that does not take it, with the ending `_first`
    where the previous frame is missing, `_last` the next, `_only` both; where a step takes no such input anyway, there
    is none. The one to take is that with the most inputs among those whose inputs all exist. Inputs are named as in
    `archs.recurrent`; a state that is a tuple is `state_0`, `state_1` ...

    Args:
        net: The network, on the CPU, in eval mode.
        folder: Where to; made where it is missing.
        force: Whether an export that is there is overwritten.

    Returns:
        The files.

    Raises:
        InputError: If the network cannot be exported, or the folder is in use or cannot be written.
    """
    folder, spec = Path(folder), spec_of(net)
    if folder.is_dir() and any(folder.iterdir()) and not (force and (folder / MANIFEST).is_file()):
        raise InputError(f'{folder} is not empty; name another folder, or overwrite the export in it by force.')
    weights = _SharedWeights()
    steps, contents = {}, {}
    for step, inputs in _examples(net, spec):
        name = f'{step}{_ending(step, inputs)}.onnx'
        model = weights.take_from(trace(net, step, inputs))
        contents[name] = model.SerializeToString()
        steps.setdefault(step, []).append(_describe(name, model))
    contents[WEIGHTS] = bytes(weights.content)
    manifest = {
        'format': FORMAT,
        'package': f'basicsr_plugins {basicsr_plugins.__version__}',
        'network': spec.name,
        'opset': OPSET,
        **{field: getattr(spec, field) for field in FIELDS},
        'step_inputs': {WHOLE: ['x']} if spec.steps is None else inputs_of_steps(spec),
        'steps': steps,
        'sha256': {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)  # while files are replaced, there is no export
        for name, content in contents.items():
            write_atomically(folder / name, content)
        write_atomically(folder / MANIFEST, json.dumps({**manifest, 'checksum': _checksum(manifest)}, indent=1))
    except OSError as error:
        raise InputError(f'{folder} cannot be written: {one_line(error)}') from error
    return [folder / name for name in (MANIFEST, *contents)]


def _examples(net: nn.Module, spec: NetworkSpec) -> Iterator[tuple[str, dict[str, State | None]]]:
    """Each step with what it takes, once for each set of inputs that exist in clips of three frames and of one."""
    check_exportable(spec)
    clip = example_clip(spec)
    if spec.steps is None:
        yield WHOLE, {'x': _whole_input(spec, clip)}
        return
    seen = {}

    def record(step: str, inputs: Mapping[str, State | None]) -> State:
        seen.setdefault((step, _ending(step, inputs), tuple(_present(inputs))), dict(inputs))
        return getattr(spec.steps, step)(**inputs)

    recorder = ReplacedSteps(spec, inputs_of_steps(spec), record)
    for length in (3, 1):
        run_sequence(recorder, clip[:, :length])
    for (step, *_), inputs in seen.items():
        yield step, inputs


def example_clip(spec: NetworkSpec) -> torch.Tensor:
    """A small clip, (1, 3, 3, h, w), in which every step of a network is taken."""
    side = -(-max(spec.min_size, SIDE) // spec.size_multiple) * spec.size_multiple
    return torch.rand(1, 3, 3, side, side, generator=torch.Generator().manual_seed(0))


def _whole_input(spec: NetworkSpec, clip: torch.Tensor) -> torch.Tensor:
    """What a network of windows or images takes of (1, t, 3, h, w): the first frame, repeated for a window."""
    frames = clip[:, 0] if spec.input_type == 'image' else clip[:, :1].expand(-1, spec.num_frame, -1, -1, -1)
    return prepare_lq(spec, frames)


def check_exportable(spec: NetworkSpec) -> None:
    """Refuse networks that have no steps and take whole sequences, and those that take states of frames ahead
    or enlarge to any size.

    Raises:
        InputError: Naming the network.
    """
    if spec.steps is None and spec.input_type == 'sequence':
        raise InputError(
            f'{spec.name} takes whole sequences and has no steps, so it cannot be exported; PyTorch runs it.'
        )
    if spec.steps is not None and spec.steps.num_lookahead:
        raise InputError(f'{spec.name} takes states of frames ahead, so it cannot be exported; PyTorch runs it.')
    if spec.steps is not None and 'places' in spec.steps.step_inputs('upsample'):
        raise InputError(f'{spec.name} enlarges to any size, so it cannot be exported; PyTorch runs it.')


def _present(inputs: Mapping[str, State | None]) -> list[str]:
    return [name for name, value in inputs.items() if value is not None]


def _ending(step: str, inputs: Mapping[str, State | None]) -> str:
    """Of the file's name, by the neighbours that are missing."""
    came_from = {-1: 'previous', 1: 'next'}.get(CAME_FROM.get(step))
    missing = set()
    for name in set(inputs) - set(_present(inputs)):
        missing.add(came_from if name == 'state' else next(side for side in NEIGHBOURS if side in name))
    return {(): '', ('previous',): '_first', ('next',): '_last'}.get(tuple(sorted(missing)), '_only')


def _describe(name: str, model) -> dict:
    """A graph, for the manifest."""
    inputs = [
        {'name': value.name, 'dtype': 'float32', 'shape': [*(d.dim_value for d in _shape(value)[:-2]), 'h', 'w']}
        for value in model.graph.input
    ]
    return {'file': name, 'inputs': inputs, 'outputs': [value.name for value in model.graph.output]}


def _shape(value):
    return list(value.type.tensor_type.shape.dim)


class _SharedWeights:
    """Weights of several models in one file, those that are equal once."""

    def __init__(self):
        self.content = bytearray()
        self._places = {}  # hash -> offset

    def take_from(self, model: bytes):
        """The model with its large constants in the file `weights.bin`."""
        import onnx
        from onnx.external_data_helper import set_external_data

        model = onnx.load_model_from_string(model)
        for tensor in model.graph.initializer:
            data = tensor.raw_data
            if len(data) >= LARGE:
                offset = self._places.setdefault(hashlib.sha256(data).digest(), len(self.content))
                if offset == len(self.content):
                    self.content += data
                set_external_data(tensor, WEIGHTS, offset, len(data))
                tensor.ClearField('raw_data')
        return model


class Export:
    """An exported network's folder, checked.

    Args:
        folder: As `write_export` leaves it.

    Raises:
        InputError: If it is none, of another version, or a file is missing or altered.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        try:
            content = (self.folder / MANIFEST).read_bytes()
            self.manifest = json.loads(content)
            version = self.manifest['format']
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f'{folder} is no exported network: it has no {MANIFEST} that can be read.') from error
        if version != FORMAT:
            raise InputError(f'{folder} is an export of version {version}, but {FORMAT} is read here; export it again.')
        if self.manifest.pop('checksum', None) != _checksum(self.manifest):
            raise InputError(f'{self.folder / MANIFEST} is not the file that was exported; export the network again.')
        self.identity = hashlib.sha256(content).hexdigest()
        for name, digest in self.manifest['sha256'].items():
            path = self.folder / name
            if not path.is_file():
                raise InputError(f'{path} is missing; export the network again.')
            if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise InputError(f'{path} is not the file that was exported (its SHA-256 differs); export it again.')

    @property
    def spec(self) -> NetworkSpec:
        said = {field: self.manifest[field] for field in FIELDS if field in self.manifest}  # older ones say less
        return NetworkSpec(self.manifest['network'], **{**said, 'scales': tuple(said['scales'])})

    def step_inputs(self) -> dict[str, list[str]]:
        return self.manifest['step_inputs']

    def model(self, step: str, inputs: Mapping[str, State | None]) -> Path:
        """The file of a step for the inputs that exist: of those that take no others, the one that takes the most.

        Raises:
            InputError: If the step always takes others.
        """
        there = set(flatten(inputs))
        graphs = [graph for graph in self.manifest['steps'][step] if there.issuperset(_names(graph))]
        if not graphs:
            raise InputError(f'{self.folder}: there is no {step} that takes no more than {", ".join(sorted(there))}.')
        return self.folder / max(graphs, key=lambda graph: len(_names(graph)))['file']


def _checksum(manifest: Mapping) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _names(graph: Mapping) -> list[str]:
    return [value['name'] for value in graph['inputs']]
