"""An archive answered inside another program's process: Ray Serve, Triton, KServe, or yours.

Nothing here imports ``handlers`` before an archive is loaded: the archive brings its own.
"""
