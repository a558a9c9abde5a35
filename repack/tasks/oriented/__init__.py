"""Oriented detection: a picture in, boxes at an angle out."""
