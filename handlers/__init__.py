"""Everything that travels inside an archive and runs in a TorchServe worker."""
