"""`patchline export`: backbone and embedding as one file that runs without their Python code."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from daemon.commands.extractors import DeviceIdOption, DeviceOption, Precision, WeightsOption


def export(
    output: Annotated[Path, typer.Option(help="The file to write; a description goes beside it as FILE.json.")],
    backbone: Annotated[str, typer.Option(help="efficientnet_lite0, wide_resnet50_2, ...")] = "efficientnet_lite0",
    format_: Annotated[Literal["mindir", "onnx"], typer.Option("--format", help="The file's format.")] = "mindir",
    weights: WeightsOption = None,
    image_size: Annotated[
        int | None, typer.Option(help="Crop, pixels. Default: the backbone's.", show_default=False)
    ] = None,
    resize: Annotated[
        int | None, typer.Option(help="Shorter side before the crop, pixels.", show_default=False)
    ] = None,
    embedding: Annotated[Literal["paper", "modelzoo"], typer.Option(help="How features are joined.")] = "paper",
    device: DeviceOption = "CPU",
    device_id: DeviceIdOption = 0,
    precision: Annotated[Precision, typer.Option(help="float16 needs an Ascend device.")] = "float32",
) -> None:
    """Export the network for any batch size; a file whose patch distances deviate is not left behind."""
    from patchcore_engine.backbones.export import export as export_network
    from patchcore_engine.backbones.mindspore_extractor import MindSporeExtractor
    from patchcore_engine.backbones.registry import backbone_spec
    from patchcore_engine.backbones.weights import load_weights
    from patchcore_engine.fit_job import geometry_for

    spec = backbone_spec(backbone)
    extractor = MindSporeExtractor(
        spec,
        load_weights(weights, spec),
        geometry=geometry_for(backbone, resize=resize, image_size=image_size),
        embedding=embedding,
        device=device,
        device_id=device_id,
        precision=precision,
        batch_sizes=(1,),
    )
    exported = export_network(extractor, output, format_)
    if exported.deviation is None:
        typer.echo(f"{exported.path}: written, but not checked: {exported.unchecked}")
    else:
        typer.echo(f"{exported.path}: written; patch distances agree to {exported.deviation:.1e}")
