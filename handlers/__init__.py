"""Everything that travels inside an archive and runs in a TorchServe worker."""

import os
import sys

# ONNX Runtime and OpenVINO (with NNCF) report their use to their makers as soon as they are loaded,
# and write into the temporary and the home folder. ONNX Runtime asks this variable before it does;
# the others do neither where this package cannot be imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
