"""Our networks against the same ones in PyTorch, on the same CPU, weights and pictures, in turn: A B A B ...

    python tests/benchmarks/backbone_vs_torch.py --torch-python PATH [--backbone NAME] [--batch 1 8] [--rounds 15]
        [--threads 2] [--json FILE]

`--torch-python` is a Python that has torch and numpy; without it only our own figures are taken. Both compute patch
vectors from uint8 pictures. Random weights; times don't depend on them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "tests" / "engine" / "reference"


class TorchPeer:
    """A child process with torch; each line sent is one run, answered by its milliseconds."""

    def __init__(self, python: str, backbone: str, image_size: int, batch: int, threads: int) -> None:
        command = [python, __file__, "--serve-torch", "--backbone", backbone, "--image-size", str(image_size)]
        command += ["--batch", str(batch), "--threads", str(threads)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{REFERENCE}"},
        )
        self.run()

    def run(self) -> float:
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("The torch process ended early; its own message stands above.")
        return float(answer)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def serve_torch(backbone: str, image_size: int, batch: int, threads: int) -> None:
    import torch
    from make_reference import CASES, MEAN, STD, load, torch_network
    from torch.nn import functional

    from patchcore_engine.backbones.random_weights import random_tensors

    torch.set_num_threads(threads)
    network = torch_network(backbone)
    load(network, random_tensors(CASES[backbone][0].convolutions, 0))
    images = torch.from_numpy(pictures(batch, image_size))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    for _ in sys.stdin:
        start = time.perf_counter()
        with torch.inference_mode():
            x = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
            fine, coarse = (functional.avg_pool2d(y, 3, 1, 1) for y in network(x))
            coarse = functional.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=False)
            torch.cat([fine, coarse], 1).flatten(2).transpose(1, 2).contiguous().numpy()
        print((time.perf_counter() - start) * 1e3, flush=True)


def pictures(batch: int, image_size: int) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (batch, image_size, image_size, 3)).astype(np.uint8)


def our_runner(backbone: str, batch: int):
    from patchcore_engine.backbones.factory import open_extractor

    extractor = open_extractor(backbone=backbone, weights="random:0", batch_sizes=(batch,))
    images = pictures(batch, extractor.identity.image_size)

    def run() -> float:
        start = time.perf_counter()
        extractor.embed(images)
        return (time.perf_counter() - start) * 1e3

    return run, extractor.identity.image_size


def compare(backbone: str, batch: int, rounds: int, threads: int, torch_python: str | None) -> list[dict]:
    run, image_size = our_runner(backbone, batch)
    peer = TorchPeer(torch_python, backbone, image_size, batch, threads) if torch_python else None
    ours, theirs = [], []
    for number in range(rounds + 2):
        pair = run(), peer.run() if peer else float("nan")
        if number >= 2:  # the first rounds compile and warm the caches
            ours.append(pair[0] / batch)
            theirs.append(pair[1] / batch)
    if peer:
        peer.close()
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    what = f"{backbone} {image_size} px, batch {batch}"
    rows = [row(what, "patchline", ours, ratio)]
    return [*rows, row(what, "torch", theirs, 1.0)] if peer else rows


def row(what: str, contestant: str, values: list[float], ratio: float) -> dict:
    return {
        "what": what,
        "contestant": contestant,
        "unit": "ms per picture",
        "n": len(values),
        "median": statistics.median(values),
        "p99": float(np.percentile(values, 99)),
        "min": min(values),
        "max": max(values),
        "baseline": "torch",
        "ratio_to_baseline": ratio,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python")
    parser.add_argument("--backbone", default="wide_resnet50_2")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve-torch", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--image-size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_torch:
        serve_torch(options.backbone, options.image_size, options.batch[0], options.threads)
        return
    sys.path.insert(0, str(ROOT))
    rows = []
    for batch in options.batch:
        rows += compare(options.backbone, batch, options.rounds, options.threads, options.torch_python)
    for entry in rows:
        print(
            "{what:40} {contestant:10} median {median:8.2f}  min {min:8.2f}  max {max:8.2f} {unit}"
            "  x torch {ratio_to_baseline:.3f}".format(**entry)
        )
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=2))


if __name__ == "__main__":
    main()
