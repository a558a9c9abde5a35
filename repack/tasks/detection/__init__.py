"""Object detection: pictures in, boxes out."""
