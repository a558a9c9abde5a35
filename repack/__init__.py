"""From a checkpoint to a verified TorchServe archive."""
