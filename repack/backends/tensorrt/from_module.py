"""PyTorch module -> TensorRT network, by torch2trt: no ONNX in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from handlers.engines.build import Job, Log
from handlers.errors import RuntimeMissing


def by_torch2trt(trt: Any, log: Log, job: Job) -> Callable[[Any, Any], None]:
    """What writes the job's module into an empty network.

    torch2trt follows a call of the module and adds a layer for each operator it knows. A tensor
    that it could not follow becomes a constant, and some of its layers are not the operator (it
    drops the weights of a 3-D InstanceNorm): the gate, on other inputs, is what finds this out.
    The engine itself is built as every other one (``handlers.engines.build``).

    Args:
        job: its module file holds a whole one, written a moment ago in the kit's own folder.

    Raises:
        RuntimeMissing: torch2trt is not installed.
    """
    import torch

    try:
        from torch2trt.torch2trt import ConversionContext
    except ImportError as e:
        raise RuntimeMissing("torch2trt", e) from None
    net = torch.load(job.module, weights_only=False).eval().cuda()
    shapes = {name: opt for name, (_, opt, _) in job.profiles.items()}
    given = [torch.rand(shape, device="cuda") for shape in shapes.values()]
    free = [
        [i for i, (a, b) in enumerate(zip(low, high, strict=True)) if a != b]
        for low, _, high in job.profiles.values()
    ]
    settings = {
        "module": net,
        "fp16_mode": False,
        "int8_mode": False,
        "device_types": {},
        "default_device_type": trt.DeviceType.GPU,
        "gpu_fallback": False,
    }

    def fill(network: Any, config: Any) -> None:
        with (
            torch.no_grad(),
            ConversionContext(
                network, torch2trt_kwargs=settings, builder_config=config, logger=log.sink
            ) as context,
        ):
            context.add_inputs(given, list(shapes), dynamic_axes=free)
            result = net(*given)
            values = list(result) if isinstance(result, (tuple, list)) else [result]
            context.mark_outputs(values, list(job.outputs))

    return fill
