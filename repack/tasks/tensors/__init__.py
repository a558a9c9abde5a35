"""Raw tensors: what a model does is not known, so its outputs alone are compared and served."""
