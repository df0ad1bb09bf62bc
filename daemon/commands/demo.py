"""`patchline demo`: the whole path on drawn parts, and the line that is killed in the middle."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def demo(
    line: Annotated[
        bool, typer.Option("--line", help="Two cameras, a kill -9 and a reload under way, and the account of it.")
    ] = False,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for everything that the demo makes.")] = Path(
        "demo-output"
    ),
    kind: Annotated[Literal["disc", "plate"], typer.Option(help="What to draw; --line draws both.")] = "disc",
    train: Annotated[int, typer.Option(min=20, help="Good parts to learn from.")] = 60,
    parts: Annotated[
        int, typer.Option(min=10, help="Parts to judge, half of them defective; with --line for each camera.")
    ] = 80,
    rate: Annotated[
        float | None,
        typer.Option(min=0.1, help="Frames a second, all cameras. Default: half of what this host can, 10 at most."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other parts.")] = 0,
) -> None:
    """Draw parts, fit a bank, run the daemon on free ports, push the parts through it and show the verdicts."""
    import signal
    import sys
    import types

    from rich.console import Console

    from daemon.demo import DemoSettings, run_demo
    from daemon.line_demo import run_line_demo

    def interrupt(_signal: int, _frame: types.FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    settings = DemoSettings(
        output=output,
        kind=kind,
        train=train,
        good=parts - parts // 2,
        defective=parts // 2,
        rate=rate,
        seed=seed,
    )
    console = Console(width=None if sys.stdout.isatty() else 120)
    complete = run_line_demo(settings, console) if line else run_demo(settings, console)
    raise typer.Exit(0 if complete else 1)
