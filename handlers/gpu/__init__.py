"""What a handler does on an NVIDIA GPU beside running the model: pictures, boxes, volumes."""
