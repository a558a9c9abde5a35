"""Semantic segmentation of pictures: the class of each pixel out."""
