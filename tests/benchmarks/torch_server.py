"""A backbone in PyTorch, run by a Python that has torch: each line on stdin is one batch, answered by milliseconds.

It computes the same patch vectors from uint8 pictures as patchline's networks do, normalisation included.
"""

import argparse
import sys
import time

import numpy as np
import torch
from make_reference import CASES, MEAN, STD, load, torch_network
from torch.nn import functional

from patchcore_engine.backbones.random_weights import random_tensors


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", required=True)
    for name in ("image-size", "batch", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    network = torch_network(asked.backbone)
    load(network, random_tensors(CASES[asked.backbone][0].convolutions, 0))
    shape = (asked.batch, asked.image_size, asked.image_size, 3)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    for _ in sys.stdin:
        start = time.perf_counter()
        with torch.inference_mode():
            x = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
            fine, coarse = (functional.avg_pool2d(y, 3, 1, 1) for y in network(x))
            coarse = functional.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=False)
            torch.cat([fine, coarse], 1).flatten(2).transpose(1, 2).contiguous().numpy()
        print((time.perf_counter() - start) * 1e3, flush=True)


if __name__ == "__main__":
    main()
