"""`patchline demo`: draw parts, fit a bank, run the real daemon, push the parts through it, and show what came out."""

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from daemon.blanks import PartKind
from daemon.client import VerdictStream
from daemon.commands.progress_bars import ProgressBars
from daemon.demo_process import DemoDaemon, command_name, end, start_command
from daemon.demo_report import DemoAccount, print_account, write_overview
from daemon.errors import DemoError, NotRunningError
from daemon.heatmap_files import HeatmapFiles
from daemon.messages import Verdict
from daemon.simulator import write_data_set
from daemon.verdict_table import VerdictTable
from patchcore_engine.bank import MemoryBank
from patchcore_engine.bank_store import resolve
from patchcore_engine.images import Geometry

BACKBONE: Final = "efficientnet_lite0"
RESIZE: Final = 320
IMAGE_SIZE: Final = 288
CORESET_RATIO: Final = 0.02
CAMERA: Final = "station-1"
MARKER: Final = ".patchline-demo"
_SLOWEST_RATE: Final = 1.5
_FASTEST_RATE: Final = 10.0
_SILENCE_S: Final = 60.0
_ANSWER_TRY_S: Final = 0.05
_ANSWER_TRIES: Final = 200
_LAST_HEATMAP_S: Final = 5.0

_CONFIG: Final = """\
# Written by `patchline demo`. The system chooses the ports; {state}/addresses.json tells them.

[engine]
batch_sizes = [1, 2, 4]

[banks]
dir = "{banks}"

[intake]
push = "tcp://127.0.0.1:*"
acked = "tcp://127.0.0.1:*"
# The demo fits into a small host's memory.
max_cameras = 4
max_frame_bytes = 4194304

[queue]
bytes = 33554432

[publish]
verdicts = "tcp://127.0.0.1:*"
replay = "tcp://127.0.0.1:*"
heatmaps = "overlay"

[telemetry]
listen = "127.0.0.1:0"

[service]
state_dir = "{state}"

[recipes.{kind}]
bank = "{kind}"
cameras = ["*"]
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoSettings:
    """How large a demo; `rate` in frames a second, of all cameras together, None for what this host keeps up with."""

    output: Path = Path("demo-output")
    kind: PartKind = "disc"
    train: int = 60
    good: int = 40
    defective: int = 40
    rate: float | None = None
    seed: int = 0


def run_demo(settings: DemoSettings, console: Console) -> bool:
    """Run the demo and return whether every frame got exactly one verdict and the image AUROC is at least 0.95.

    Leaves no process behind, however it ends. Raises DemoError when a step fails.
    """
    started = time.monotonic()
    output = prepare_output(settings.output, settings.kind)
    data, banks, state = output / "data", output / "banks", output / "state"
    heatmaps = output / "heatmaps"
    category = draw(settings, data, console)
    fit_bank(data, settings.kind, banks, console)
    config = output / "config.toml"
    config.write_text(_CONFIG.format(kind=settings.kind, banks=banks, state=state), encoding="utf-8")
    parts = sorted(path.relative_to(category / "test").as_posix() for path in (category / "test").rglob("*.png"))
    with ExitStack() as stack:
        daemon = DemoDaemon(config, state, output / "daemon.log")
        stack.callback(daemon.stop)
        with step(console, "Starting the daemon"):
            daemon.start()
        say_command(console, ["serve", "--config", shown(config)])
        verdicts = _push_and_watch(settings, daemon, category / "test", parts, output, console)
        status = daemon.stop()
    account = DemoAccount(parts, verdicts, daemon_status=status)
    overview = write_overview(
        account, category / "test", heatmaps, output / "overview.png", Geometry(resize=RESIZE, image_size=IMAGE_SIZE)
    )
    print_account(account, console)
    console.print(f"[dim]Heat maps[/]    {shown(heatmaps)}/ ({len(list(heatmaps.glob('*.png')))} PNG overlays)")
    if overview is not None:
        console.print(f"[dim]At a glance[/]  {shown(overview)}")
    console.print(f"[dim]All told[/]     {time.monotonic() - started:.0f} s")
    _print_next(settings, category, banks, config, console)
    return account.complete


def _push_and_watch(
    settings: DemoSettings, daemon: DemoDaemon, folder: Path, parts: list[str], output: Path, console: Console
) -> list[Verdict]:
    """Let `patchline push` be the camera and follow the verdicts until all have come or the daemon falls silent."""
    addresses = daemon.addresses
    rate = settings.rate or affordable_rate(output / "banks", settings.kind)
    arguments = ["push", shown(folder), "--camera", CAMERA, "--shuffle", "--rate", f"{rate:g}"]
    say_command(console, [*arguments, "--config", shown(output / "config.toml")])
    verdicts: list[Verdict] = []
    with ExitStack() as stack:
        files = HeatmapFiles(addresses["verdicts"], output / "heatmaps")
        stack.callback(files.close)
        stream = stack.enter_context(open_stream(addresses))
        log = stack.enter_context((output / "push.log").open("wb"))
        camera = start_command([*arguments, "--address", addresses["push"]], log)
        stack.callback(end, camera)
        table = stack.enter_context(VerdictTable(console, rows=12, title="Verdicts as they come"))
        while len(verdicts) < len(parts) and (verdict := stream.next(_SILENCE_S)) is not None:
            verdicts.append(verdict)
            table.add(verdict)
            files.expect(verdict)
        files.wait_for(sum(verdict.score is not None for verdict in verdicts), _LAST_HEATMAP_S)
    return verdicts


def open_stream(addresses: Mapping[str, str]) -> VerdictStream:
    """Return a stream that begins with the next verdict, whenever that comes. Raises NotRunningError."""
    stream = VerdictStream(addresses["verdicts"], addresses["replay"])
    for _ in range(_ANSWER_TRIES):
        stream.next(_ANSWER_TRY_S)
        if stream.position is not None:
            return stream
    stream.close()
    raise NotRunningError(f"The daemon doesn't answer at {addresses['replay']}.")


def prepare_output(folder: Path, name: str) -> Path:
    """Return the empty folder `name` in `folder`, without what an earlier demo left there.

    Raises DemoError when `folder` holds files and no demo made it: it is left as it is.
    """
    marker = folder / MARKER
    if folder.exists() and not marker.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DemoError(f"{folder} is there and no demo made it: give another folder with --output.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        marker.touch()
        if (folder / name).exists():
            shutil.rmtree(folder / name)
        (folder / name).mkdir()
    except OSError as error:
        raise DemoError(f"{folder} can't be written: {error.strerror}. Give another folder with --output.") from error
    return (folder / name).resolve()


def draw(settings: DemoSettings, data: Path, console: Console) -> Path:
    """Draw the parts, with a progress bar."""
    total = settings.train + settings.good + settings.defective
    console.print(f"[bold]Drawing {total} parts[/] into {shown(data)}")
    with ProgressBars(console).stage("drawing", total, "pictures") as advance:
        return write_data_set(
            data,
            settings.kind,
            train_good=settings.train,
            test_good=settings.good,
            test_defective=settings.defective,
            seed=settings.seed,
            advance=advance,
        )


def fit_bank(
    data: Path,
    category: str,
    banks: Path,
    console: Console,
    *,
    seed: int = 0,
    why: str = "Learning what good parts are",
) -> None:
    """Run `patchline fit` as a person would. Raises DemoError."""
    arguments = ["fit", "--data", shown(data), "--category", category, "--banks", shown(banks)]
    arguments += ["--backbone", BACKBONE, "--resize", str(RESIZE), "--image-size", str(IMAGE_SIZE)]
    arguments += ["--coreset-ratio", str(CORESET_RATIO), "--seed", str(seed)]
    console.print(f"[bold]{why}[/]")
    say_command(console, arguments)
    process = start_command(arguments, COLUMNS=str(console.width))
    try:
        status = process.wait()
    finally:
        end(process)
    if status != 0:
        raise DemoError("The fit failed, as said above.")


def affordable_rate(banks: Path, recipe: str) -> float:
    """Return the frames a second that leave this host half idle, by what the fit has just achieved."""
    manifest = MemoryBank.load(resolve(banks / recipe)).manifest
    fitted = manifest.pictures / max(manifest.seconds["embed"], 0.001)
    return round(min(max(fitted / 2, _SLOWEST_RATE), _FASTEST_RATE), 1)


@contextmanager
def step(console: Console, name: str) -> Iterator[None]:
    """Tell that something takes a while, and how long it took."""
    started = time.monotonic()
    if console.is_terminal:
        with console.status(f"[bold]{name}[/] ..."):
            yield
    else:
        yield
    console.print(f"[bold]{name}[/] took {time.monotonic() - started:.1f} s")


def say_command(console: Console, arguments: list[str]) -> None:
    console.print(f"[dim]$ {command_name()} {' '.join(arguments)}[/]", soft_wrap=True, highlight=False)


def shown(path: Path) -> str:
    """Return `path` as a person in the current folder writes it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _print_next(settings: DemoSettings, category: Path, banks: Path, config: Path, console: Console) -> None:
    name, bank, desk = command_name(), shown(banks / settings.kind), config.parent / "desk"
    commands = [
        ("judge at a desk", f"inspect {shown(category)}/test/scratch --bank {bank} --output {shown(desk)}"),
        ("the full figures", f"eval --data {shown(category.parent)} --category {settings.kind} --bank {bank}"),
        ("why was it rejected?", f"journal query --config {shown(config)} --verdict fail"),
        ("run the daemon", f"serve --config {shown(config)}"),
        ("... be a camera", f"push --simulate {settings.kind} --rate 4 --config {shown(config)}"),
        ("... see verdicts", f"watch --config {shown(config)}"),
        ("a line that is killed", "demo --line"),
    ]
    console.print("\n[bold]What to try next[/]")
    for purpose, command in commands:
        console.print(f"  {purpose:<22} [cyan]{name} {command}[/]", soft_wrap=True, highlight=False)
