"""One process per model and GPU that holds the engine, for all of the model's workers.

Six workers with a CUDA context each take turns on a GPU, and each takes over a gigabyte of the
host's memory. Here one process (the GPU server) decodes and runs the pictures of all of them,
several workers' in one batch. A worker starts the server if it is not there yet (``starting``),
gives it its pictures in shared memory (``client``, ``wire``), and suppresses and encodes the boxes
itself, but for crowds. The server (``process``, ``queues``, ``jobs``, ``work``) ends with its last
worker.
"""
