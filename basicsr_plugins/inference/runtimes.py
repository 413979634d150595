"""Run a network by another runtime than PyTorch: OpenVINO, ONNX Runtime, TensorRT.

A network on a runtime is a network like any other: it describes itself and has the same steps. It is made of a PyTorch
network, whose steps are converted when they are first used, or of an exported folder. Graphs work at any size; a step
has one for each set of inputs that exist (see `inference.exported`).

Results are the same, bit for bit, whenever a step gets the same inputs from the same runtime with the same number of
threads, which is PyTorch's (`torch.set_num_threads`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from basicsr_plugins.archs.recurrent import State
from basicsr_plugins.errors import InputError, suggest
from basicsr_plugins.inference.exported import Export, check_exportable, example_clip
from basicsr_plugins.inference.prepared import lay_out
from basicsr_plugins.inference.replaced_steps import ReplacedSteps, inputs_of_steps
from basicsr_plugins.inference.sessions import RUNTIMES, OpenVINO, Runtime, is_installed
from basicsr_plugins.inference.tracing import SINGLE, WHOLE, flatten, trace
from basicsr_plugins.models.network_spec import FIELDS, NetworkSpec, spec_of
from basicsr_plugins.models.restoration import device_of, restore_frames


def on_runtime(net: nn.Module | Export, runtime: str = 'auto', dtype: torch.dtype = torch.float32) -> nn.Module:
    """A network that `runtime` runs.

    Args:
        net: A PyTorch network in eval mode, or an exported one.
        runtime: `torch`, `openvino`, `onnxruntime`, `tensorrt` (by ONNX Runtime; not tested). `auto`: OpenVINO on the
            CPU where it is installed and the network can be converted, else PyTorch; for an exported network the first
            of OpenVINO and ONNX Runtime that is installed.
        dtype: Of its computation. OpenVINO takes bfloat16 and float16 where the processor has them, TensorRT float16;
            positions between pixels stay in float32, and so does flow, but for OpenVINO's convolutions.

    Returns:
        For PyTorch the network itself, its weights laid out for speed; it computes in the dtype that `UpscaleSettings`
        says.

    Raises:
        InputError: If the runtime is unknown, not installed, or cannot run the network in that dtype.
    """
    names = ('auto', 'torch', *RUNTIMES)
    if runtime not in names:
        raise InputError(f'there is no runtime {runtime!r}; {suggest(runtime, names)}')
    if isinstance(net, Export):
        if runtime == 'torch':
            raise InputError(f'{net.folder} holds ONNX files, which runtime torch cannot run; take another.')
        name = runtime if runtime != 'auto' else 'openvino' if is_installed('openvino') else 'onnxruntime'
        return _compose(net, net.spec, RUNTIMES[name](dtype))
    spec = spec_of(net)
    if runtime == 'torch' or (runtime == 'auto' and not _may_gain(net, spec, dtype)):
        return lay_out(net)
    if runtime == 'auto':
        return _converted_or_not(net, spec, dtype)
    if device_of(net) not in (None, torch.device('cpu')):
        raise InputError(f'runtime {runtime} takes a network on the CPU, but this one is on {device_of(net)}.')
    check_exportable(spec)
    return _compose(Traced(net), spec, RUNTIMES[runtime](dtype))


def _compose(source: Traced | Export, spec: NetworkSpec, runtime: Runtime) -> nn.Module:
    kind = WholeNetwork if WHOLE in source.step_inputs() else RecurrentOnRuntime
    return type(spec.name, (kind,), {})(spec, Computation(source, runtime)).eval()  # its messages name the network


def _may_gain(net: nn.Module, spec: NetworkSpec, dtype: torch.dtype) -> bool:
    """Whether OpenVINO is there for a network, and not sure to be slower: it keeps no features between windows."""
    if spec.steps is not None and 'places' in spec.steps.step_inputs('upsample'):
        return False
    converts = spec.steps is not None or (spec.input_type != 'sequence' and not hasattr(net, 'extract_features'))
    is_here = device_of(net) == torch.device('cpu') and is_installed('onnx') and is_installed('openvino')
    return converts and is_here and dtype in OpenVINO.dtypes()


@torch.no_grad()
def _converted_or_not(net: nn.Module, spec: NetworkSpec, dtype: torch.dtype) -> nn.Module:
    """The network on OpenVINO, its steps converted; as it is, where they cannot be."""
    converted = _compose(Traced(net), spec, OpenVINO(dtype))
    try:
        for _ in restore_frames(converted, example_clip(spec)[0]):
            pass
    except Exception:  # of the export, of OpenVINO; the network's own comes again when it runs
        return lay_out(net)
    return converted


class Traced:
    """The graphs of a PyTorch network, made when they are asked for; the same methods as `Export`.

    Args:
        net: The network.
    """

    def __init__(self, net: nn.Module):
        self._net = net

    @property
    def identity(self) -> str:
        content = hashlib.sha256(repr(self._net).encode())
        for name, value in self._net.state_dict().items():
            content.update(name.encode() + value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return content.hexdigest()

    def step_inputs(self) -> dict[str, tuple[str, ...]]:
        spec = spec_of(self._net)
        return {WHOLE: ('x',)} if spec.steps is None else inputs_of_steps(spec)

    def model(self, step: str, inputs: Mapping[str, State | None]) -> bytes:
        return trace(self._net, step, inputs)


class Computation:
    """Computes steps on a runtime; a graph is compiled when its step is first called with its set of inputs.

    Args:
        source: The graphs.
        runtime: What runs them.
    """

    def __init__(self, source: Traced | Export, runtime: Runtime):
        self.source = source
        self.runtime = runtime
        self._sessions = {}

    def __str__(self) -> str:
        return f'{self.runtime}, {self.source.identity}'

    def __call__(self, step: str, inputs: Mapping[str, State | None]) -> State:
        """The result of a step, (1, c, h, w) or a tuple of such tensors, from its inputs by name; None: not there."""
        flat = flatten(inputs)
        key = (step, *flat)
        if key not in self._sessions:
            self._sessions[key] = self.runtime.load(self.source.model(step, inputs), is_flow=step == 'flow')
        arrays = {name: value.detach().float().contiguous().numpy() for name, value in flat.items()}
        outputs = self._sessions[key](arrays)
        tensors = tuple(torch.from_numpy(array) for array in outputs.values())
        return tensors[0] if next(iter(outputs)) in SINGLE else tensors


class RecurrentOnRuntime(ReplacedSteps):
    """A recurrent network whose steps a runtime computes; a batch is one clip.

    Attributes:
        runtime: Which, its version and dtype.
    """

    def __init__(self, spec: NetworkSpec, computation: Computation):
        super().__init__(spec, computation.source.step_inputs(), computation)
        self.runtime = str(computation.runtime)

    def extra_repr(self) -> str:
        return str(self._compute)


class WholeNetwork(nn.Module):
    """A network of windows or images that a runtime computes, one at a time: (b, ..., h, w) -> (b, 3, s * h, s * w).

    Attributes:
        runtime: Which, its version and dtype.
    """

    def __init__(self, spec: NetworkSpec, computation: Computation):
        super().__init__()
        for field in FIELDS:
            setattr(self, field, getattr(spec, field))
        self._computation = computation
        self.runtime = str(computation.runtime)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._computation(WHOLE, {'x': one}) for one in x.split(1)])

    def extra_repr(self) -> str:
        return str(self._computation)
