"""From the bytes of a medical volume to its voxels and back to a mask on the same grid.

Each format is one module. ``reading.read`` is the way in; a format's library is imported only when
a volume of that format comes, so an archive without volumes never loads any of them.
"""
