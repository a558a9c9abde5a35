"""Poses and landmarks: pictures in, boxes with points out."""
