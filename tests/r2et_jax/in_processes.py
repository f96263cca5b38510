"""Run as a program: one of two processes of `jax.distributed`, on CPU.

`python -m tests.r2et_jax.in_processes ADDRESS INDEX FILE`: each process explains its
half of the inputs on its own two devices; all gather what both found, and the first one
writes it.
"""

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import jax

if __name__ == "__main__":
    jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))

import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from r2et_jax import devices
from r2et_jax.subject import explain, subject


def apply(params, x, /):
    return jnp.tanh(params @ x).sum()[None]


def examined():
    rng = np.random.default_rng(0)
    params, x = rng.normal(size=(3, 5)), rng.normal(size=(12, 5))
    return subject(apply, jnp.asarray(params, jnp.float32)), x.astype(np.float32)


def main():
    model, x = examined()
    share = np.split(x, 2)[jax.process_index()]
    assert len(jax.devices()) == 4
    assert devices.chosen() == tuple(jax.local_devices()) != tuple(jax.devices())
    maps = multihost_utils.process_allgather(explain(model, share), tiled=True)
    if jax.process_index() == 0:
        Path(sys.argv[3]).write_text(json.dumps(np.asarray(maps).tolist()))


if __name__ == "__main__":
    main()
