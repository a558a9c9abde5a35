"""Building TensorRT engines: each in a process of its own, found again when nothing has changed."""
