"""Everything that travels inside an archive and runs in a TorchServe worker."""

import os

# ONNX Runtime reports its use to its makers, and leaves a file in the temporary folder, unless it is
# told not to before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
