"""A detector's road on an NVIDIA GPU: decode, letterbox, model, suppression, one copy back."""
