"""Writes a SavedModel; run by the Python that has TensorFlow: ``savedmodel_maker.py KIND OUT``.

``KIND`` is what reaches outside its graph, or "plain".
"""

from __future__ import annotations

import sys
from typing import Any

import tensorflow as tf

SIDE = 32


class Classifier(tf.Module):  # type: ignore[misc]
    """Pictures ``[N, 32, 32, 3]`` to probabilities ``[N, 5]``."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.first = tf.Variable(tf.random.normal((3, 3, 3, 8)) * 0.4)
        self.last = tf.Variable(tf.random.normal((8, 5)) * 3)

    @tf.function(input_signature=[tf.TensorSpec((None, SIDE, SIDE, 3), tf.float32, "x")])  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        if self.kind == "ReadFile":
            x = x + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32)
        if self.kind == "PyFunc":
            x = tf.numpy_function(lambda v: v, [x], tf.float32)
            x.set_shape((None, SIDE, SIDE, 3))
        if self.kind == "Bessel":
            x = tf.math.special.bessel_i0(x)
        y = tf.nn.relu(tf.nn.conv2d(x, self.first, 2, "SAME"))
        return {"scores": tf.nn.softmax(tf.reduce_mean(y, (1, 2)) @ self.last)}


def main(kind: str, target: str) -> None:
    tf.keras.utils.set_random_seed(0)
    model = Classifier(kind)
    tf.saved_model.save(model, target, signatures=model.__call__)
    given = tf.random.uniform((3, SIDE, SIDE, 3))
    if kind == "plain":
        import numpy as np

        np.savez(f"{target}.npz", given=given.numpy(), answer=model(given)["scores"].numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
