"""`patchline demo --line`: two cameras, a reload under way, a kill -9 in the middle, and the account of every part."""

import subprocess
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from daemon.blanks import KINDS
from daemon.client import VerdictStream
from daemon.demo import (
    DemoSettings,
    affordable_rate,
    draw,
    fit_bank,
    open_stream,
    prepare_output,
    say_command,
    shown,
    step,
)
from daemon.demo_process import DemoDaemon, command_name, end, free_address, start_command
from daemon.messages import Verdict
from daemon.outcomes import Outcome
from daemon.verdict_table import VerdictTable
from patchcore_engine.bank_store import activate, resolve

_SILENCE_S: Final = 120.0
_ACK_TIMEOUT_S: Final = 120
_AFTERMATH_S: Final = 2.0
_TEST_PARTS: Final = 10
# The shares of all parts after which the line is disturbed.
_RELOAD_AT: Final = 0.25
_KILL_AT: Final = 0.5

# The addresses outlive the daemon's restart, so the system can't choose them anew.
_CONFIG: Final = """\
# Written by `patchline demo --line`.

[engine]
batch_sizes = [1, 2, 4]

[banks]
dir = "{banks}"

[intake]
push = ""
acked = "{acked}"
# The demo fits into a small host's memory.
max_cameras = 4
max_frame_bytes = 4194304

[queue]
bytes = 33554432
shed = "block"

[publish]
verdicts = "{verdicts}"
replay = "{replay}"
heatmaps = "off"

[telemetry]
listen = "127.0.0.1:0"

[service]
state_dir = "{state}"

[recipes.disc]
bank = "disc"
cameras = ["disc-line"]

[recipes.plate]
bank = "plate"
cameras = ["plate-line"]
"""


@dataclass(frozen=True)
class LineAccount:
    """What was sent against what the controller saw. `sent`: frames by camera."""

    sent: dict[str, int]
    verdicts: Sequence[Verdict]

    @cached_property
    def judged(self) -> Counter[str]:
        return Counter(v.camera for v in self.verdicts if v.verdict is not Outcome.NOT_INSPECTED)

    @cached_property
    def not_inspected(self) -> Counter[str]:
        return Counter({c: sum(v.count for v in self._refused if v.camera == c) for c in self.sent})

    @property
    def _refused(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.verdict is Outcome.NOT_INSPECTED]

    @cached_property
    def duplicates(self) -> int:
        return len(self.verdicts) - len({verdict.identity for verdict in self.verdicts})

    @cached_property
    def out_of_order(self) -> int:
        """Verdicts whose seq, or whose journal offset, doesn't exceed the one before it."""
        by_stream: dict[tuple[str, int], list[int]] = defaultdict(list)
        for verdict in self.verdicts:
            by_stream[verdict.camera, verdict.stream].append(verdict.seq)
        offsets = [verdict.offset for verdict in self.verdicts if verdict.offset is not None]
        return sum(_descents(numbers) for numbers in (offsets, *by_stream.values()))

    @property
    def balanced(self) -> bool:
        """Whether sent = judged + explicitly not inspected, nothing twice, nothing out of order."""
        accounted = all(self.sent[c] == self.judged[c] + self.not_inspected[c] for c in self.sent)
        return accounted and self.duplicates == 0 and self.out_of_order == 0


def _descents(numbers: Sequence[int]) -> int:
    return sum(later <= earlier for earlier, later in pairwise(numbers))


def run_line_demo(settings: DemoSettings, console: Console) -> bool:
    """Run the line and return whether its account balances. Leaves no process behind, however it ends."""
    output = prepare_output(settings.output, "line")
    data, banks, state = output / "data", output / "banks", output / "state"
    for kind in KINDS:
        draw(replace(settings, kind=kind, good=_TEST_PARTS, defective=_TEST_PARTS), data, console)
        fit_bank(data, kind, banks, console)
    first = resolve(banks / "disc").name
    fit_bank(data, "disc", banks, console, seed=1, why="Making another version of the disc bank, to reload")
    second = resolve(banks / "disc").name
    activate(banks, "disc", first)
    rate = settings.rate or affordable_rate(banks, "disc")
    addresses = {name: free_address() for name in ("acked", "verdicts", "replay")}
    config = output / "config.toml"
    config.write_text(_CONFIG.format(banks=banks, state=state, **addresses), encoding="utf-8")
    sent = {f"{kind}-line": settings.good + settings.defective for kind in KINDS}
    with ExitStack() as stack:
        daemon = DemoDaemon(config, state, output / "daemon.log")
        # Twice: a restart on the pool's thread may start a process after the first call.
        stack.callback(daemon.stop)
        pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="restart"))
        stack.callback(daemon.stop)
        with step(console, "Starting the daemon"):
            daemon.start()
        say_command(console, ["serve", "--config", shown(config)])
        controller = stack.enter_context(open_stream(addresses))
        cameras = []
        for kind in KINDS:
            log = stack.enter_context((output / f"push-{kind}.log").open("wb"))
            camera = f"{kind}-line"
            arguments = ["push", shown(data / kind / "test"), "--camera", camera, "--acked", "--shuffle", "--loop"]
            arguments += ["--count", str(sent[camera]), "--rate", f"{rate / len(KINDS):g}"]
            arguments += ["--timeout", str(_ACK_TIMEOUT_S)]
            say_command(console, [*arguments, "--config", shown(config)])
            cameras.append(start_command([*arguments, "--address", addresses["acked"]], log))
            stack.callback(end, cameras[-1])
        troubles = _Troubles(daemon, pool, banks, (first, second), sum(sent.values()))
        verdicts = _follow(controller, troubles, console)
        restart_s = troubles.restarted()
        acknowledged = all(_finished(camera) for camera in cameras)
        daemon.stop()
    account = LineAccount(sent, verdicts)
    _print(account, restart_s, console)
    if not acknowledged:
        console.print(f"[bold red]A camera was not told of every verdict[/]: see {shown(output)}/push-*.log")
    query = f"{command_name()} journal query --config {shown(config)}"
    console.print(f"\nEvery verdict is in the journal: [cyan]{query}[/]", soft_wrap=True)
    return account.balanced and acknowledged


class _Troubles:
    """Disturbs the daemon when enough parts have been judged: a reload, then another with a kill -9 on its heels."""

    def __init__(
        self, daemon: DemoDaemon, pool: ThreadPoolExecutor, banks: Path, versions: tuple[str, str], total: int
    ) -> None:
        self.total = total
        self._daemon = daemon
        self._pool = pool
        self._banks = banks
        self._versions = versions
        self._reloaded = False
        self._restart: Future[float] | None = None

    def disturb(self, seen: int) -> str | None:
        """Do what is due after `seen` verdicts and return what was done."""
        if not self._reloaded and seen >= _RELOAD_AT * self.total:
            self._reloaded = True
            self._reload(self._versions[1])
            return f"[bold yellow]bank reload[/] after {seen} verdicts: disc moves to {self._versions[1]}"
        if self._restart is None and seen >= _KILL_AT * self.total:
            self._reload(self._versions[0])
            self._daemon.kill()
            self._restart = self._pool.submit(self._daemon.start)
            return f"[bold red]kill -9[/] after {seen} verdicts, with a reload to {self._versions[0]} under way"
        return None

    def restarted(self) -> float | None:
        """Return how many seconds the restart took. Raises NotRunningError when it failed."""
        return self._restart.result() if self._restart is not None else None

    def _reload(self, version: str) -> None:
        activate(self._banks, "disc", version)
        self._daemon.reload()


def _follow(controller: VerdictStream, troubles: _Troubles, console: Console) -> list[Verdict]:
    """Be the line controller: take every verdict, until all have come or none comes for a long while."""
    verdicts: list[Verdict] = []
    accounted = 0
    with VerdictTable(console, rows=12, title="The line controller's view") as table:
        while accounted < troubles.total and (verdict := controller.next(_SILENCE_S)) is not None:
            verdicts.append(verdict)
            accounted += verdict.count
            table.add(verdict)
            done = troubles.disturb(accounted)
            if done is not None:
                console.print(done, soft_wrap=True)
        # A part judged twice would show now.
        while (verdict := controller.next(_AFTERMATH_S)) is not None:
            verdicts.append(verdict)
    return verdicts


def _finished(camera: subprocess.Popen[bytes]) -> bool:
    try:
        return camera.wait(_ACK_TIMEOUT_S) == 0
    except subprocess.TimeoutExpired:
        return False


def _print(account: LineAccount, restart_s: float | None, console: Console) -> None:
    table = Table(title="The account", title_justify="left")
    for column in ("camera", "sent", "judged", "not inspected", "banks"):
        table.add_column(column, justify="left" if column in ("camera", "banks") else "right")
    for camera, sent in account.sent.items():
        banks = Counter(v.bank for v in account.verdicts if v.camera == camera and v.bank is not None)
        used = ", ".join(f"{count} on {bank}" for bank, count in banks.items())
        table.add_row(camera, str(sent), str(account.judged[camera]), str(account.not_inspected[camera]), used)
    console.print()
    console.print(table)
    if restart_s is not None:
        console.print(f"[dim]Restart after kill -9[/]  ready again in {restart_s:.1f} s")
    mark = "[green]balanced[/]" if account.balanced else "[bold red]NOT BALANCED[/]"
    console.print(
        f"[dim]Account[/] {mark}: {sum(account.sent.values())} sent = {account.judged.total()} judged + "
        f"{account.not_inspected.total()} explicitly not inspected; duplicates {account.duplicates}, "
        f"out of order {account.out_of_order}",
        soft_wrap=True,
    )
