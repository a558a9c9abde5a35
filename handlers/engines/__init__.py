"""TensorRT engines: the differences between its versions, building, reading back, running."""
