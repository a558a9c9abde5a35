"""From a checkpoint to a verified TorchServe archive."""

import os

# NNCF reports its use to its makers, and writes into the home folder, unless it is told not to.
os.environ.setdefault("NNCF_CI", "1")
