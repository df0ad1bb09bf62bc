"""The daemon's life: bind, load, rehearse, serve, reload, drain; signals, systemd, and the death of a thread."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Final

import psutil
import structlog

from daemon.authenticator import THREAD_NAME as AUTHENTICATOR
from daemon.changeover import change_over
from daemon.config import SecuritySettings, Settings, load_settings
from daemon.door_watch import DoorWatch
from daemon.endpoints import SERVER_KEY
from daemon.errors import ConfigError, DaemonError
from daemon.health import HealthServer
from daemon.inspection import guarded, run_guarded
from daemon.logs import set_up_logging
from daemon.memory_budget import Footprints, MemoryBudget, footprints, memory_budget
from daemon.memory_limit import memory_limit
from daemon.notify import Notifier
from daemon.recipes import load_recipes
from daemon.security import OPEN_DOORS_ADVICE, open_doors, read_door_keys
from daemon.self_watch import SelfWatch
from daemon.state_folder import StateFolder
from daemon.stations import Stations, open_stations
from daemon.telemetry import Telemetry
from patchcore_engine.errors import PatchcoreError

log = structlog.get_logger()

TICK_S: Final = 0.5
CRASHED: Final = "systemd starts the daemon again, and senders at the acked door lose nothing. Report the traceback."
KEEP_SERVING: Final = "The banks from before serve on. Mend what the error names (`patchline bank verify`), and reload."
# Libraries, journal, sockets, and a few readers.
OWN_DESCRIPTORS: Final = 64
KEY_FILES: Final = ("server_key", "cameras", "subscribers")
# Bits that no file of the daemon has, whatever umask it was started with: an ipc socket can be connected to by whoever
# may write to its file, and has the umask's mode until it is given its own.
NEVER_WRITABLE: Final = 0o022


class Service:
    """One daemon process. `run` belongs to the main thread and returns the exit status."""

    def __init__(self, config: Path, telemetry: Telemetry, notifier: Notifier | None = None) -> None:
        self._config = config
        self._settings = load_settings(config)
        self._telemetry = telemetry
        self._notifier = notifier or Notifier()
        self._stations: Stations | None = None
        self._state: StateFolder | None = None
        self._telemetry_address = ""
        self._loaded = self._draining = False
        self._stop_asked = False
        self._reloads_asked = 0
        self._watch = SelfWatch(telemetry)
        self._crashed: str | None = None
        self._reload: threading.Thread | None = None
        self._door_watch: DoorWatch | None = None
        self._measured_above = 0
        self._banks: Footprints = {}
        self._bell_reader, self._bell_writer = socket.socketpair()
        for end in (self._bell_reader, self._bell_writer):
            end.setblocking(False)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT. Raises DaemonError and PatchcoreError while starting."""
        with ExitStack() as resources:
            resources.callback(self._bell_reader.close)
            resources.callback(self._bell_writer.close)
            self._banks = footprints(self._settings)
            self._require(self._budget())
            self._install(resources)
            state = resources.enter_context(StateFolder(self._settings.service.state_dir))
            self._telemetry.started.set_to_current_time()
            stations = self._stations = open_stations(self._settings, self._telemetry, self._journal_changed)
            resources.callback(stations.close)
            health = None
            if self._settings.telemetry.listen:
                health = HealthServer(
                    self._settings.telemetry.listen, self._telemetry.registry, healthy=self.healthy, ready=self.ready
                )
                resources.callback(health.stop)
                health.start()
            self._telemetry.watch(self._telemetry.healthy, lambda: float(self.healthy()[0]))
            self._telemetry.watch(self._telemetry.ready, lambda: float(self.ready()[0]))
            self._state, self._telemetry_address = state, health.address if health is not None else ""
            log.info("bound", **self._write_addresses())
            self._warn_of_open_doors()
            watch = self._door_watch = DoorWatch(
                stations.doors,
                self._telemetry,
                descriptors_needed=OWN_DESCRIPTORS + 2 * self._settings.intake.max_cameras,
                ceiling=self._budget().ceiling,
            )
            resources.callback(watch.close)
            watch.start()
            self._notifier.status("Loading banks")
            stations.pipeline.start()
            # A start that fails closes the sockets, and the threads that use them must have ended before.
            resources.callback(stations.pipeline.drain, 0)
            self._load()
            if not self._stop_asked:
                stations.open_doors()
                self._loaded = True
                self._notifier.ready(self._status())
                log.info("ready", recipes={n: r.bank.version for n, r in stations.pipeline.recipes.recipes.items()})
            while not self._stop_asked and self._crashed is None:
                self._tick()
            if self._crashed is not None:
                log.critical("crashed", thread=self._crashed, advice=CRASHED)
                # Whatever thread is left may wait for the one that died.
                self._flush_and_exit(1)
            self._drain(stations)
            engine_idle = stations.pipeline.engine_idle()
        if not engine_idle:
            # The engine never came back: Python would wait for it, or crash in its destructors.
            self._flush_and_exit(0)
        return 0

    def healthy(self) -> tuple[bool, str]:
        """Whether work makes progress, or none waits."""
        if self._crashed is not None:
            return False, f"The {self._crashed} thread died."
        if self._stations is not None and not self._stations.guarded:
            return False, "The authenticator failed: nobody new gets in. Restart the daemon."
        hangs = self._stations.pipeline.stuck() if self._stations is not None else None
        if hangs is not None:
            return False, f"Work waits and the {hangs} finished none within {self._settings.service.stuck_s:g} s."
        return True, "ok"

    def ready(self) -> tuple[bool, str]:
        """Whether frames sent now are judged and journalled."""
        if self._draining:
            return False, "Shutting down."
        if not self._loaded or self._stations is None:
            return False, "Loading banks."
        if not self._stations.pipeline.journal_available:
            return False, "The journal can't be written."
        return True, "ok"

    def _install(self, resources: ExitStack) -> None:
        """Let signals ring the main loop's bell, and a thread's death too."""

        def stop(_number: int, _frame: FrameType | None) -> None:
            self._stop_asked = True

        def reload(_number: int, _frame: FrameType | None) -> None:
            self._reloads_asked += 1

        handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]] = {
            signal.SIGTERM: stop,
            signal.SIGINT: stop,
            signal.SIGHUP: reload,
        }
        for number, handler in handlers.items():
            resources.callback(signal.signal, number, signal.signal(number, handler))
        # A bell that rings already needs no further stroke, and no warning.
        bell = self._bell_writer.fileno()
        resources.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(bell, warn_on_full_buffer=False))
        resources.callback(setattr, threading, "excepthook", threading.excepthook)
        threading.excepthook = self._thread_died

    def _thread_died(self, args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread is not None else "unknown"
        log.critical("thread_died", thread=name, advice=CRASHED, exc_info=args.exc_value)
        if name == AUTHENTICATOR:
            # The doors refuse everybody by themselves; who is connected goes on, until systemd's watchdog restarts us.
            log.critical("authenticator_failed", advice="Nobody new gets in, who is in stays. Restart the daemon.")
            return
        self._crashed = name
        self._ring()

    def _ring(self) -> None:
        with suppress(OSError):
            self._bell_writer.send(b"\0")

    def _load(self) -> None:
        stations = self._stations_or_fail()
        change_over(stations.pipeline, load_recipes(self._settings))
        estimate = self._budget()
        self._measured_above = estimate.with_resident(psutil.Process().memory_info().rss).bytes - estimate.bytes
        self._require(self._budget())

    def _budget(self) -> MemoryBudget:
        """The budget of what serves now."""
        limit = memory_limit(self._settings.service.memory_bytes)
        return memory_budget(self._settings, self._banks, limit).with_above(self._measured_above)

    def _require(self, budget: MemoryBudget) -> None:
        """Take up the budget, and raise MemoryBudgetError unless it fits."""
        self._take_up(budget)
        budget.require()

    def _take_up(self, budget: MemoryBudget) -> None:
        self._telemetry.set_memory_budget({share.name: share.bytes for share in budget.shares}, budget.limit.bytes)
        if self._door_watch is not None:
            self._door_watch.set_ceiling(budget.ceiling)

    def _tick(self) -> None:
        interval_s = TICK_S
        if self._notifier.watchdog_s is not None:
            interval_s = min(interval_s, self._notifier.watchdog_s / 3)
        self._bell_reader.settimeout(interval_s)
        with suppress(TimeoutError):
            self._bell_reader.recv(4096)
        if self._reloads_asked and (self._reload is None or not self._reload.is_alive()) and not self._stop_asked:
            # One reload answers all that was asked for until it began.
            asked, self._reloads_asked = self._reloads_asked, 0
            self._telemetry.reload_requests.inc(asked)
            self._notifier.reloading()
            self._reload = threading.Thread(target=self._reload_recipes, args=(asked,), name="reload", daemon=True)
            failure = run_guarded(self._reload.start)
            if failure is not None:
                self._tell_of_reload(asked, failure)
        stations = self._stations_or_fail()
        dead = stations.dead_thread()
        if dead is not None and self._crashed is None:
            self._crashed = dead
        self._watch.look(stations.pipeline.stuck())
        if self._crashed is None and self._watch.hangs is None and stations.guarded:
            self._notifier.alive()

    def _reload_recipes(self, asked: int) -> None:
        self._tell_of_reload(asked, self._take_up_the_configuration())
        self._ring()

    def _tell_of_reload(self, asked: int, failure: Exception | None) -> None:
        if failure is None:
            recipes = self._stations_or_fail().pipeline.recipes.recipes
            log.info("reloaded", asked=asked, recipes={name: recipe.bank.version for name, recipe in recipes.items()})
            self._notifier.ready(self._status())
        else:
            log.error("reload_failed", error=_told(failure), advice=KEEP_SERVING, exc_info=_unforeseen(failure))
            self._notifier.ready(f"{self._status()}; the last reload failed: {_told(failure)}")
        self._telemetry.reloads.labels("success" if failure is None else "failure").inc()
        self._telemetry.last_reload.set_to_current_time()

    def _take_up_the_configuration(self) -> Exception | None:
        """Take up keys, recipes and banks as they are on disk now; return what failed first, and then the old serve on.

        Neither waits for the other: a key must be revocable while a bank is damaged.
        """
        settings = guarded(lambda: load_settings(self._config))
        if isinstance(settings, Exception):
            return settings
        self._warn_of_other_changes(settings)
        keys_failure = run_guarded(lambda: self._change_keys(settings))
        banks_failure = run_guarded(lambda: self._load_beside_the_running(settings))
        if keys_failure is not None and banks_failure is not None:
            log.error("keys_not_changed", error=_told(keys_failure), exc_info=_unforeseen(keys_failure))
        return banks_failure or keys_failure

    def _change_keys(self, settings: Settings) -> None:
        if not (settings.security.server_key and self._settings.security.server_key):
            return
        stations, keys = self._stations_or_fail(), read_door_keys(settings.security)
        if keys is not None and keys != stations.keys:
            stations.change_keys(keys)
            counts = {name: len(peers) for name, peers in keys.lists.items()}
            log.info("keys_changed", server_key=keys.own.public.decode(), **counts)
        # Each time, since it may have failed the last time.
        self._write_addresses()
        if self._door_watch is not None:
            self._door_watch.find_listeners(stations.open_addresses)
        self._settings = self._settings.model_copy(update={"security": _keys_of(settings, self._settings)})

    def _load_beside_the_running(self, settings: Settings) -> None:
        stations = self._stations_or_fail()
        settings = self._settings.model_copy(update={"recipes": settings.recipes, "banks": settings.banks})
        banks = footprints(settings)
        limit = memory_limit(settings.service.memory_bytes)
        both = memory_budget(settings, banks, limit, self._banks).with_above(self._measured_above)
        both.require()
        # The banks that go may be larger than those that come.
        self._take_up(max(both, self._budget(), key=lambda budget: budget.ceiling))
        try:
            change_over(stations.pipeline, load_recipes(settings, stations.pipeline.recipes.extractors()))
            self._banks = banks
            self._settings = settings
        finally:
            self._take_up(self._budget())

    def _warn_of_other_changes(self, settings: Settings) -> None:
        if bool(settings.security.server_key) == bool(self._settings.security.server_key):
            settings = settings.model_copy(update={"security": _keys_of(self._settings, settings)})
        for section in Settings.model_fields:
            if section not in ("recipes", "banks") and getattr(settings, section) != getattr(self._settings, section):
                log.warning("restart_needed", section=section, advice="Restart the daemon to take it up.")

    def _write_addresses(self) -> dict[str, str]:
        """Tell clients on this host the addresses, and the key to know the daemon by."""
        stations = self._stations_or_fail()
        addresses = {**stations.addresses, "telemetry": self._telemetry_address}
        if stations.keys is not None:
            addresses[SERVER_KEY] = stations.keys.own.public.decode()
        if self._state is not None:
            self._state.write_addresses(addresses)
        return addresses

    def _warn_of_open_doors(self) -> None:
        doors = open_doors(self._settings)
        self._telemetry.doors_without_keys.set(len(doors))
        if doors:
            log.warning("doors_without_keys", doors=sorted(doors), advice=OPEN_DOORS_ADVICE)

    def _drain(self, stations: Stations) -> None:
        self._draining = True
        self._notifier.stopping(self._settings.service.drain_s)
        log.info("draining", drain_s=self._settings.service.drain_s)
        begin = time.monotonic()
        cut_off = stations.drain(self._settings.service.drain_s)
        log.info("stopped", shutting_down=cut_off, seconds=round(time.monotonic() - begin, 3))

    def _flush_and_exit(self, status: int) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(status)

    def _journal_changed(self, available: bool) -> None:
        self._notifier.status(self._status() if available else "The journal can't be written: not ready")

    def _status(self) -> str:
        stations = self._stations_or_fail()
        count = len(stations.pipeline.recipes.recipes)
        return f"Serving {count} recipe{'s' if count != 1 else ''}"

    def _stations_or_fail(self) -> Stations:
        if self._stations is None:
            raise ConfigError("The service isn't started.")
        return self._stations


def _told(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}" if _unforeseen(failure) else str(failure)


def _unforeseen(failure: Exception) -> Exception | None:
    """Return a failure whose text says too little: any but an error made on purpose."""
    return None if isinstance(failure, DaemonError | PatchcoreError) else failure


def _keys_of(settings: Settings, rest: Settings) -> SecuritySettings:
    """Return the section [security] of `rest` with the files of keys of `settings`: what a reload takes up."""
    return rest.security.model_copy(update={key: getattr(settings.security, key) for key in KEY_FILES})


def run_service(config: Path) -> int:
    """Run one daemon in this process, the whole of `patchline serve`; return the exit status."""
    import prometheus_client

    from patchcore_engine.runtime import prepare_process

    settings = load_settings(config)
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=registry)
    telemetry = Telemetry(registry)
    set_up_logging(settings.service.log_level, on_loss=telemetry.log_lines_lost.inc)
    os.umask(os.umask(0o077) | NEVER_WRITABLE)
    log.info("process_prepared", isa_guard=prepare_process().isa_guard)
    libraries = ("patchline", "mindspore", "faiss-cpu", "numpy")
    telemetry.build.info({name.replace("-", "_"): version(name) for name in libraries})
    return Service(config, telemetry).run()
