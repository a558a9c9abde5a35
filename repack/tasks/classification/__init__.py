"""Classification: a picture in, the most probable classes out."""
