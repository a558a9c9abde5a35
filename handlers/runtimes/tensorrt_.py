"""TensorRT engines, whichever route built them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handlers.artefact import TensorRTOptions
from handlers.engines import build, rebuild, versions
from handlers.errors import RuntimeUnfit
from handlers.runtimes.device import DeviceRuntime, Size, unfit_shape

logger = logging.getLogger(__name__)


class TensorRT(DeviceRuntime):
    """Runs one engine, or one for each batch size.

    ``artefact.files`` are the engines. An engine runs with the TensorRT and on the GPU that
    ``options.built`` names only; elsewhere, and with ``options.rebuild``
    (``handlers.engines.rebuild``), the engines are built again, once.
    """

    name = "tensorrt"
    options_type = TensorRTOptions
    options: TensorRTOptions

    def activate(self) -> None:
        super().activate()
        if self.note:  # built again: not what the gate saw
            rebuild.check(self)

    def open(self) -> None:
        trt = versions.library()
        self.trt = trt
        self._types = types(self.torch, trt)
        here = versions.machine(trt, self.torch, self.device)
        built = self.options.built
        differs = [
            f"{what} {built.get(what)} (here {here[what]})"
            for what in versions.MUST_MATCH
            if built.get(what) != here[what]
        ]
        self.log = build.Log(trt)
        self._runtime = trt.Runtime(self.log.sink)
        self.engines = [self._engine(path) for path in self._plans(differs, here)]

    @property
    def largest(self) -> int:
        """The largest batch built, or the largest of a profile."""
        if self.batches:
            return super().largest
        return max(p[s.name][2][0] for p in self.options.engines for s in self.inputs)

    def _plans(self, differs: Sequence[str], here: Mapping[str, str]) -> list[Path]:
        """The engines to load: the packed ones, or those built for this machine."""
        if not differs:
            ends = (".plan", ".engine")
            return [self.folder / name for name in self.artefact.files if name.endswith(ends)]
        said = f"the engine was built for {', '.join(differs)}"
        if not self.options.rebuild:
            raise RuntimeUnfit(f"{said}: not loaded")
        typed = versions.dialect(self.trt).typed
        try:
            found = rebuild.engines(self.folder, self.artefact, here, typed, self.device.index or 0)
        except RuntimeUnfit as e:
            raise RuntimeUnfit(f"{said}, and {e}") from None
        self.note = f"{said}: built again here, and compared with the original's answers"
        return found

    def _engine(self, path: Path) -> Any:
        plan = path.read_bytes()
        version = versions.foreign(plan[:64], self.trt.__version__)
        if version:
            raise RuntimeUnfit(
                f"{path.name}: written by TensorRT {version}, here is {self.trt.__version__}: "
                "not loaded"
            )
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            reason = self.log.reason("no reason given")
            raise RuntimeUnfit(
                f"{path.name}: TensorRT {self.trt.__version__} refuses it ({reason})"
            )
        names = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
        wanted = {spec.name for spec in self.inputs}
        inputs = {n for n in names if engine.get_tensor_mode(n) == self.trt.TensorIOMode.INPUT}
        if inputs != wanted:
            raise RuntimeUnfit(
                f"{path.name}: the engine takes {', '.join(sorted(inputs))}, "
                f"the handler gives {', '.join(sorted(wanted))}"
            )
        return engine

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> Size:
        engine = self._fitting(shapes)
        context = self._context(engine)
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise unfit_shape(name, shape, *self._limits(engine, name))
        tensors = {}
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            dtype = self._types[engine.get_tensor_dtype(name)]
            tensors[name] = self.torch.zeros(
                tuple(context.get_tensor_shape(name)), dtype=dtype, device=self.device
            )
            if not context.set_tensor_address(name, tensors[name].data_ptr()):
                raise RuntimeUnfit(self.log.reason(f"TensorRT takes no buffer for {name}"))
        return Size(
            {n: t for n, t in tensors.items() if n in shapes},
            {n: t for n, t in tensors.items() if n not in shapes},
            context,
        )

    def _context(self, engine: Any) -> Any:
        """A context with the engine's profile.

        An engine of TensorRT 8 that was built elsewhere may lend its profile to one context at a
        time: then the sizes prepared so far go first, and each change of shape captures anew.
        """
        context = engine.create_execution_context()
        if context is not None and context.active_optimization_profile < 0:
            del context
            self.stream.synchronize()  # the contexts that go may still be running
            self.sizes.clear()
            context = engine.create_execution_context()
            if context is not None and context.active_optimization_profile < 0:
                raise RuntimeUnfit("the engine's profile is held by another context")
        if context is None:
            # The caller turns this into 507; TensorRT's own words say which allocation failed.
            raise MemoryError(self.log.reason("out of memory for an execution context"))
        return context

    def call(self, size: Size) -> None:
        if not size.model.execute_async_v3(self.stream.cuda_stream):
            raise RuntimeError(self.log.reason("TensorRT did not run the engine"))

    def _fitting(self, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        """The engine whose profile takes these shapes."""
        for engine in self.engines:
            limits = {name: self._limits(engine, name) for name in shapes}
            if all(_within(shape, *limits[name]) for name, shape in shapes.items()):
                return engine
        for name, shape in shapes.items():
            all_limits = [self._limits(engine, name) for engine in self.engines]
            low = min(least for least, _ in all_limits)
            high = max(most for _, most in all_limits)
            if not any(_within(shape, *limits) for limits in all_limits):
                raise unfit_shape(name, shape, list(low), list(high))
        raise unfit_shape(*next(iter(shapes.items())), "one profile", "one profile")

    def _limits(self, engine: Any, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        least, _, most = engine.get_tensor_profile_shape(name, 0)
        return tuple(least), tuple(most)


def types(torch: Any, trt: Any) -> dict[Any, Any]:
    """TensorRT's element types as PyTorch's."""
    return {
        trt.float32: torch.float32,
        trt.float16: torch.float16,
        trt.int32: torch.int32,
        trt.int8: torch.int8,
        trt.uint8: torch.uint8,
        trt.bool: torch.bool,
    }


def _within(shape: tuple[int, ...], least: tuple[int, ...], most: tuple[int, ...]) -> bool:
    return len(shape) == len(least) and all(
        low <= n <= high for low, n, high in zip(least, shape, most, strict=True)
    )
