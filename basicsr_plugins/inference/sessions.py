"""The runtimes: each loads an ONNX model and runs it, arrays in and arrays out, float32 (n, c, h, w)."""

from __future__ import annotations

import importlib
import importlib.metadata
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Union

import numpy as np
import torch

from basicsr_plugins.errors import InputError
from basicsr_plugins.inference.tracing import is_output

Arrays = Mapping[str, np.ndarray]
Session = Callable[[Arrays], 'dict[str, np.ndarray]']  # inputs by name -> outputs by name, which are the caller's
Model = Union[bytes, Path]


def is_installed(package: str) -> bool:
    """Whether a package can be imported."""
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


class Runtime(ABC):
    """Loads models.

    Args:
        dtype: Of the computation.

    Raises:
        InputError: If the runtime is not installed, or does not compute in that dtype here.
    """

    name: str
    package: str
    extra: str  # of this package, that brings it

    def __init__(self, dtype: torch.dtype = torch.float32):
        if not is_installed(self.package):
            raise InputError(
                f'runtime {self.name} needs {self.package}, which is not installed: '
                f"pip install 'basicsr-plugins[{self.extra}]'."
            )
        dtypes = self.dtypes()
        if dtype not in dtypes:
            names = ', '.join(str(known).split('.')[1] for known in dtypes)
            raise InputError(f'runtime {self.name} computes in {names} here, not in {str(dtype).split(".")[1]}.')
        self.dtype = dtype
        self.num_thread = torch.get_num_threads()

    def __str__(self) -> str:
        return f'{self.name} {importlib.metadata.version(self.package)}, {self.dtype}'

    @classmethod
    @abstractmethod
    def dtypes(cls) -> tuple[torch.dtype, ...]:
        """In what it computes on this machine, float32 first."""

    @abstractmethod
    def load(self, model: Model, is_flow: bool = False) -> Session:
        """A function that runs a model.

        Args:
            model: ONNX, or a file of it.
            is_flow: Whether it estimates flow, for runtimes that compute that in float32.
        """


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU."""

    name, package, extra = 'onnxruntime', 'onnxruntime', 'export'
    provider = 'CPUExecutionProvider'

    @classmethod
    def dtypes(cls) -> tuple[torch.dtype, ...]:
        return (torch.float32,)

    def providers(self, is_flow: bool) -> list:
        return [self.provider]

    def load(self, model: Model, is_flow: bool = False) -> Session:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.num_thread
        options.log_severity_level = 3  # errors
        source = model if isinstance(model, bytes) else str(model)
        session = onnxruntime.InferenceSession(source, options, providers=self.providers(is_flow))
        taken = [value.name for value in session.get_inputs()]  # not what a step takes and does not use
        names = [value.name for value in session.get_outputs()]
        return lambda arrays: dict(zip(names, session.run(names, {name: arrays[name] for name in taken})))


class TensorRT(OnnxRuntime):
    """NVIDIA's TensorRT as a provider of ONNX Runtime; written by its documentation, never run by us."""

    name, extra = 'tensorrt', 'export'
    provider = 'TensorrtExecutionProvider'

    def __init__(self, dtype: torch.dtype = torch.float32):
        super().__init__(dtype)
        import onnxruntime

        if self.provider not in onnxruntime.get_available_providers():
            raise InputError(
                'runtime tensorrt needs an ONNX Runtime that was built with it: pip install onnxruntime-gpu tensorrt.'
            )

    @classmethod
    def dtypes(cls) -> tuple[torch.dtype, ...]:
        return (torch.float32, torch.float16)

    def providers(self, is_flow: bool) -> list:
        options = {'trt_fp16_enable': self.dtype == torch.float16 and not is_flow}
        return [(self.provider, options), 'CUDAExecutionProvider', 'CPUExecutionProvider']


class OpenVINO(Runtime):
    """Intel's OpenVINO on the CPU.

    Convolutions that estimate flow compute in the dtype too: what they give is added up in float32, and flow itself is
    wrong by ten times as much (docs/measurements.md).
    """

    name, package, extra = 'openvino', 'openvino', 'openvino'
    capabilities = (('BF16', torch.bfloat16), ('FP16', torch.float16))
    hints = {torch.float32: 'f32', torch.bfloat16: 'bf16', torch.float16: 'f16'}  # noqa: RUF012
    samplers = ('GridSample', 'DeformableConvolution')

    def __init__(self, dtype: torch.dtype = torch.float32):
        super().__init__(dtype)
        self._core = _openvino_core()

    @classmethod
    def dtypes(cls) -> tuple[torch.dtype, ...]:
        known = _openvino_core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
        return (torch.float32, *(dtype for name, dtype in cls.capabilities if name in known))

    def load(self, model: Model, is_flow: bool = False) -> Session:
        model = self._core.read_model(model, b'') if isinstance(model, bytes) else self._core.read_model(str(model))
        is_exact = self.dtype == torch.float32
        if not is_exact:
            self._keep_positions(model)
        settings = {
            'INFERENCE_NUM_THREADS': self.num_thread,
            'INFERENCE_PRECISION_HINT': self.hints[self.dtype],
            'PERFORMANCE_HINT': 'LATENCY',
            'ENABLE_CPU_PINNING': False,  # two processes would share one core
        }
        return _OpenVINOSession(self._core, self._core.compile_model(model, 'CPU', settings), is_exact)

    def _keep_positions(self, model) -> None:
        """Keep positions between pixels in float32: bfloat16 would move them by parts of a pixel.

        OpenVINO leaves in float32 what lies between the last convolution and an output of the model. So what reads
        between pixels is made an output, which nobody reads.
        """
        for operation in model.get_ops():
            if operation.get_type_name() in self.samplers:
                model.add_outputs(operation.output(0))


_cores = weakref.WeakValueDictionary()


def _openvino_core():
    """The one core of the process, for as long as it is in use.

    On processors with AMX each core gives signal handlers a stack of its own and puts the one before it back at its
    end. Of two, that one may be freed by then: the next signal, be it Ctrl-C or a child process that ends, was a crash.
    A core that is kept for ever is none to fork with: what it has compiled leaves threads behind.
    """
    import openvino
    from openvino.frontend.onnx import ConversionExtension

    core = _cores.get('openvino')
    if core is None:
        core = _cores['openvino'] = openvino.Core()
        core.add_extension(ConversionExtension('DeformConv', _convert_deform_conv))
    return core


class _OpenVINOSession:
    """Runs a compiled model; inputs are read where the arrays lie.

    Args:
        core: What compiled the model, which lives as long.
        compiled: The model.
        in_place: Whether outputs of known shape are written where they are to lie, without a copy. In bfloat16 OpenVINO
            2026.4 sometimes refuses that.
    """

    def __init__(self, core, compiled, in_place: bool):
        self._core, self._compiled = core, compiled
        self._request = compiled.create_infer_request()
        self._taken = [value.node.get_friendly_name() for value in compiled.inputs]
        # what keeps positions has a name of no output
        self._names = [name for value in compiled.outputs for name in value.names if is_output(name)]
        self._in_place = in_place
        self._shapes = {}  # shapes of inputs -> name and shape of outputs

    def __call__(self, arrays: Arrays) -> dict[str, np.ndarray]:
        import openvino

        arrays = {name: arrays[name] for name in self._taken}
        key = tuple(array.shape for array in arrays.values())
        if key not in self._shapes:
            # once given a caller's array, a request would write there again: this one is never given any
            request = self._compiled.create_infer_request() if self._in_place else self._request
            found = request.infer(arrays, share_inputs=True, share_outputs=True)
            results = {name: found[name].copy() for name in self._names}
            if self._in_place:
                self._shapes[key] = {name: array.shape for name, array in results.items()}
            return results
        results = {name: np.empty(shape, np.float32) for name, shape in self._shapes[key].items()}
        for name, array in (*arrays.items(), *results.items()):
            self._request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        self._request.infer()
        return results


def _convert_deform_conv(node):
    """ONNX's `DeformConv`, which OpenVINO's reader does not know, as OpenVINO's own operation."""
    import openvino
    from openvino import opset8

    x, weight, offset, bias, *mask = (node.get_input(i) for i in range(node.get_input_size()))
    pads = node.get_attribute('pads')
    convolved = opset8.deformable_convolution(
        *(x, offset, weight, node.get_attribute('strides'), pads[:2], pads[2:], node.get_attribute('dilations')),
        *mask,
        group=node.get_attribute('group'),
        deformable_group=node.get_attribute('offset_group'),
        bilinear_interpolation_pad=True,  # half outside the frame counts half
    )
    axes = openvino.op.Constant(np.array([0, 2, 3]))
    return opset8.add(convolved, opset8.unsqueeze(bias, axes)).outputs()


RUNTIMES = {runtime.name: runtime for runtime in (OpenVINO, OnnxRuntime, TensorRT)}
