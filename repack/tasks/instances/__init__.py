"""Instance segmentation of pictures: boxes with masks out."""
