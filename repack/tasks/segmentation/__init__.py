"""Segmentation of volumes: a scan in, a mask on its own grid out."""
