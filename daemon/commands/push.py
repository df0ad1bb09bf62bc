"""`patchline push`: be a camera, with the pictures of a folder or drawn parts."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from daemon.commands.door_options import KeyOption, ServerKeyOption


def push(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Pictures to send, with those in folders below.")
    ] = None,
    simulate: Annotated[Literal["disc", "plate"] | None, typer.Option(help="Draw parts of this kind instead.")] = None,
    camera: Annotated[str, typer.Option(help="The camera's name.")] = "cam0",
    rate: Annotated[float | None, typer.Option(min=0.01, help="Frames a second; without it as fast as taken.")] = None,
    encoding: Annotated[
        Literal["raw", "jpeg", "png"] | None,
        typer.Option(help="Without it PNG and JPEG files go as they are, all else as PNG."),
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Start over at the end of the folder.")] = False,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Send the folder in a random order, by --seed.")] = False,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")] = None,
    part: Annotated[str, typer.Option(metavar="PREFIX", help="Put this before each part's name.")] = "",
    recipe: Annotated[str | None, typer.Option(help="Ask for this recipe instead of the camera's own.")] = None,
    acked: Annotated[bool, typer.Option("--acked", help="Keep each frame until its verdict is journalled.")] = False,
    address: Annotated[str | None, typer.Option(help="The daemon's door; without it the configuration's.")] = None,
    config: Annotated[Path | None, typer.Option(help="The configuration that names the doors.")] = None,
    key: KeyOption = None,
    server_key: ServerKeyOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the drawn parts and of --shuffle.")] = 0,
    defective: Annotated[float, typer.Option(min=0, max=1, help="Share of defective drawn parts.")] = 0.25,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait while no daemon takes frames.")] = 30.0,
) -> None:
    """Send frames to the daemon as a camera would. A part is named by its file or its number."""
    from daemon.endpoints import client_keys, endpoint
    from daemon.pushing import Pace, push_acked, push_plain
    from daemon.simulator import SimulatedCamera

    if (folder is None) == (simulate is None):
        raise typer.BadParameter("give a folder of pictures, or --simulate disc or --simulate plate.")
    if folder is not None:
        source = SimulatedCamera.replay(folder, encoding=encoding, loop=loop, shuffle=seed if shuffle else None)
    elif simulate is not None:
        source = SimulatedCamera.drawing(simulate, seed=seed, encoding=encoding, defective_share=defective)
    door = address or endpoint("acked" if acked else "push", config)
    send = push_acked if acked else push_plain
    send(
        source.frames(count),
        address=door,
        camera=camera,
        prefix=part,
        recipe=recipe,
        total=count if source.total is None else min(source.total, count or source.total),
        pace=Pace(rate),
        timeout_s=timeout,
        keys=client_keys(key, server_key, config),
    )
