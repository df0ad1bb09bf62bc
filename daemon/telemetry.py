"""Every metric of the daemon, declared once. Names are part of the interface: deploy/ builds alerts on them."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from daemon.messages import NO_CAMERA, Stages, Verdict
from daemon.outcomes import Outcome, Reason

STAGES: Final = ("wait", "decode", "embed", "search", "score", "publish")
DOORS: Final = ("push", "acked")
ALLOW_LISTS: Final = ("cameras", "subscribers")
RELOAD_OUTCOMES: Final = ("success", "failure")
UTILISATION_WINDOW_S: Final = 30.0


def geometric(first: float, factor: float, count: int) -> tuple[float, ...]:
    """Return `count` histogram bounds, each `factor` times the one before, rounded to four significant digits."""
    return tuple(float(f"{first * factor**i:.4g}") for i in range(count))


SECONDS_BUCKETS: Final = geometric(0.0001, 2, 18)  # 0.1 ms to 13 s
SCORE_BUCKETS: Final = geometric(0.05, 2**0.5, 30)  # 0.05 to 1,158: L2 distances of every shipped backbone
P_VALUE_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
BATCH_BUCKETS: Final = tuple(float(2**i) for i in range(8))


class Utilisation:
    """The part of the last UTILISATION_WINDOW_S seconds that the engine was busy. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spells: deque[tuple[int, int]] = deque()
        self._started_ns = time.monotonic_ns()

    def add(self, begin_ns: int, end_ns: int) -> None:
        """Note one busy spell, monotonic nanoseconds."""
        with self._lock:
            self._spells.append((begin_ns, end_ns))
            self._forget(end_ns)

    def ratio(self) -> float:
        now_ns = time.monotonic_ns()
        with self._lock:
            self._forget(now_ns)
            horizon_ns = max(now_ns - int(UTILISATION_WINDOW_S * 1e9), self._started_ns)
            busy_ns = sum(end - max(begin, horizon_ns) for begin, end in self._spells)
        return min(busy_ns / max(now_ns - horizon_ns, 1), 1.0)

    def _forget(self, now_ns: int) -> None:
        while self._spells and self._spells[0][1] < now_ns - UTILISATION_WINDOW_S * 1e9:
            self._spells.popleft()


class Telemetry:
    """The daemon's metrics on one registry. Every method is thread-safe."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.utilisation = Utilisation()

        def counter(name: str, text: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(f"patchline_{name}", text, tuple(labels), registry=registry)

        def gauge(name: str, text: str, labels: Iterable[str] = ()) -> Gauge:
            return Gauge(f"patchline_{name}", text, tuple(labels), registry=registry)

        def histogram(name: str, text: str, buckets: Iterable[float], labels: Iterable[str] = ()) -> Histogram:
            return Histogram(f"patchline_{name}", text, tuple(labels), registry=registry, buckets=tuple(buckets))

        self.build = Info("patchline_build", "Versions of the daemon and of what it stands on.", registry=registry)
        self.bank_info = gauge("bank_info", "1 for the memory bank that serves a recipe.", ("recipe", "bank"))
        self.bank_threshold = gauge("bank_threshold", "Score threshold in force.", ("recipe", "kind"))
        self.started = gauge("start_timestamp_seconds", "When the daemon started, Unix time.")
        self.ready = gauge("ready", "1 when /readyz answers 200.")
        self.healthy = gauge("healthy", "1 when /healthz answers 200.")

        self.frames = counter("frames_received", "Frames received, duplicates included.", ("camera", "door"))
        self.frame_bytes = counter("frame_bytes_received", "Payload bytes received.", ("camera",))
        self.duplicates = counter("duplicate_frames", "Frames received again and not judged again.", ("camera",))
        self.streams = counter("streams_started", "Streams seen for the first time.", ("camera",))
        self.conflicts = counter("stream_conflicts", "Changes back to an earlier stream: two senders.", ("camera",))
        self.gaps = counter("sequence_gaps", "Gaps in seq, each of one or more missing parts.", ("camera",))
        self.last_frame = gauge("last_frame_timestamp_seconds", "When a camera's last frame came.", ("camera",))
        self.cameras = gauge("cameras", "Cameras known.")
        self.cameras_limit = gauge("cameras_limit", "intake.max_cameras.")

        self.verdicts = counter("verdicts", "Verdicts settled.", ("camera", "verdict"))
        self.not_inspected = counter("not_inspected", "Verdicts not_inspected by reason.", ("reason",))
        self.last_verdict = gauge("last_verdict_timestamp_seconds", "When a camera's last verdict left.", ("camera",))
        self.stage_seconds = histogram("stage_seconds", "Time of one frame per stage.", SECONDS_BUCKETS, ("stage",))
        self.end_to_end_seconds = histogram(
            "end_to_end_seconds",
            "From receiving a judged frame to publishing its verdict.",
            SECONDS_BUCKETS,
            ("recipe",),
        )
        self.score = histogram("score", "Image scores.", SCORE_BUCKETS, ("recipe",))
        self.p_value = histogram(
            "p_value", "Conformal p-values; uniform when nothing drifted.", P_VALUE_BUCKETS, ("recipe",)
        )

        self.batch_frames = histogram("batch_frames", "Frames per engine batch.", BATCH_BUCKETS)
        self.engine_busy = counter("engine_busy_seconds", "Time that the engine worked.")
        self.engine_utilisation = gauge("engine_utilisation_ratio", "Busy part of the last 30 seconds.")
        self.engine_utilisation.set_function(self.utilisation.ratio)
        self.engine_errors = counter("engine_errors", "Batches in which the engine raised.")
        self.engine_not_finite = counter("engine_not_finite", "Pictures whose score was no finite number.")
        self.engine_out_of_memory = counter("engine_out_of_memory", "Batches that the device's memory didn't hold.")
        self.engine_batch_limit = gauge(
            "engine_batch_limit_frames", "Frames that the engine takes at once; less after it ran out of memory."
        )

        self.queue_frames = gauge("queue_frames", "Frames waiting for the engine.")
        self.queue_bytes = gauge("queue_bytes", "Payload bytes waiting for the engine.")
        self.queue_oldest_age = gauge(
            "queue_oldest_age_seconds", "Age of the frame that has waited longest; 0 if none."
        )
        self.queue_frames_limit = gauge("queue_frames_limit", "queue.frames.")
        self.queue_bytes_limit = gauge("queue_bytes_limit", "queue.bytes.")
        self.in_flight = gauge("in_flight_frames", "Frames taken in whose verdicts have not left.")

        self.journal_available = gauge("journal_available", "1 while verdicts can be put on disk.")
        self.journal_bytes = gauge("journal_bytes", "Size of the journal on disk.")
        self.journal_lag = gauge("journal_lag_verdicts", "Settled verdicts that wait for the journal.")
        self.journal_next_offset = gauge("journal_next_offset", "The offset that the next verdict gets.")
        self.journal_commit_seconds = histogram("journal_commit_seconds", "Time of one group commit.", SECONDS_BUCKETS)
        self.journal_failures = counter("journal_failures", "Group commits that failed.")

        self.subscribers = gauge("subscribers", "Connections that have subscribed to verdicts.")
        self.heatmap_subscribers = gauge("heatmap_subscribers", "Connections that have subscribed to heat maps.")
        self.heatmap_subscribers_limit = gauge(
            "heatmap_subscribers_limit", "publish.heatmap_subscriptions; with more of them no heat maps are published."
        )
        self.subscribers_behind = counter(
            "subscribers_behind", "Times that a subscriber fell publish.high_water_mark behind and missed messages."
        )
        self.senders = gauge("acked_senders", "Senders connected at the acked door.")

        self.descriptors = gauge("descriptors", "File descriptors open.")
        self.descriptors_limit = gauge("descriptors_limit", "File descriptors that connections may take.")
        self.descriptors_short = gauge("descriptors_short", "1 while new connections are turned away for want of them.")

        self.archive_parts = counter("archive_parts", "Parts written to the archive.")
        self.archive_dropped = counter("archive_dropped_parts", "Parts not archived: the archive lagged or failed.")
        self.archive_queue = gauge("archive_queue_parts", "Parts waiting to be archived.")
        self.archive_lag = gauge("archive_lag_seconds", "Age of the oldest part waiting to be archived; 0 if none.")
        self.archive_bytes = gauge("archive_bytes", "Size of the archive on disk.")

        self.clock_steps = counter("clock_steps", "Jumps of the host's clock by more than a second.")
        self.authenticator_alive = gauge("authenticator_alive", "1 while doors that ask for keys have someone to ask.")
        self.authenticator_alive.set(1)
        self.connections_granted = counter("connections_granted", "Connections whose key is on the list.", ("list",))
        self.connections_refused = counter("connections_refused", "Connections whose key is not.", ("list",))
        self.unfinished_cut = counter(
            "unfinished_messages_cut",
            "Connections cut for messages without end, of far too many parts, or at the end of the memory budget.",
        )
        self.doors_without_keys = gauge("doors_without_keys", "Doors that other hosts reach without a key.")

        self.reloads = counter("reloads", "Reloads of banks and recipes.", ("outcome",))
        self.reload_requests = counter("reload_requests", "Reloads asked for; one reload answers all that wait for it.")
        self.last_reload = gauge("last_reload_timestamp_seconds", "When the last reload ended; 0 if none.")

        self.log_lines_lost = counter("log_lines_lost", "Log lines that stderr didn't take.")

        self.memory_budget = gauge("memory_budget_bytes", "What the daemon may take at most, by share.", ("share",))
        self.memory_limit = gauge(
            "memory_limit_bytes", "What it has: service.memory_bytes, its cgroup's or the host's."
        )
        self._set_label_sets_to_zero()

    def _set_label_sets_to_zero(self) -> None:
        for reason in Reason:
            self.not_inspected.labels(reason.value)
        for stage in STAGES:
            self.stage_seconds.labels(stage)
        for outcome in RELOAD_OUTCOMES:
            self.reloads.labels(outcome)
        for allow_list in ALLOW_LISTS:
            self.connections_granted.labels(allow_list)
            self.connections_refused.labels(allow_list)
        self.add_camera(NO_CAMERA)

    def add_camera(self, camera: str) -> None:
        """Begin the label sets of one camera at 0. The caller bounds the number of cameras."""
        for door in DOORS:
            self.frames.labels(camera, door)
        for counter in (self.frame_bytes, self.duplicates, self.streams, self.conflicts, self.gaps):
            counter.labels(camera)
        for verdict in Outcome:
            self.verdicts.labels(camera, verdict.value)
        if camera != NO_CAMERA:
            self.last_frame.labels(camera)
            self.last_verdict.labels(camera)

    def remove_camera(self, camera: str) -> None:
        """Forget one camera and its counts. The caller sees that nothing is counted for it any more."""
        for metric in (
            *(self.frames, self.frame_bytes, self.duplicates, self.streams, self.conflicts, self.gaps, self.verdicts),
            *(self.last_frame, self.last_verdict),
        ):
            metric.remove_by_labels({"camera": camera})

    def set_recipe(self, recipe: str, bank: str, review_threshold: float, fail_threshold: float) -> None:
        """Note the bank that serves `recipe` from now on."""
        self.remove_recipe(recipe)
        self.bank_info.labels(recipe, bank).set(1)
        self.bank_threshold.labels(recipe, "review").set(review_threshold)
        self.bank_threshold.labels(recipe, "fail").set(fail_threshold)
        for histogram in (self.end_to_end_seconds, self.score, self.p_value):
            histogram.labels(recipe)

    def remove_recipe(self, recipe: str) -> None:
        """Forget which bank served `recipe`; its counts stay."""
        self.bank_info.remove_by_labels({"recipe": recipe})
        self.bank_threshold.remove_by_labels({"recipe": recipe})

    def set_memory_budget(self, shares: Mapping[str, int], limit: int) -> None:
        """Note what the daemon may take, bytes by share, and what it has."""
        for share, size in shares.items():
            self.memory_budget.labels(share).set(size)
        self.memory_limit.set(limit)

    def count_verdict(self, verdict: Verdict, camera_label: str) -> None:
        """Count one verdict that left. `camera_label` is the camera if it is among the known ones."""
        self.verdicts.labels(camera_label, verdict.verdict.value).inc()
        if camera_label != NO_CAMERA:
            self.last_verdict.labels(camera_label).set_to_current_time()
        if verdict.reason is not None:
            self.not_inspected.labels(verdict.reason.value).inc()
        if verdict.recipe is not None and verdict.score is not None and verdict.p_value is not None:
            self.score.labels(verdict.recipe).observe(verdict.score)
            self.p_value.labels(verdict.recipe).observe(verdict.p_value)
            self._observe_stages(verdict.stages)

    def _observe_stages(self, stages: Stages) -> None:
        for stage in STAGES:
            self.stage_seconds.labels(stage).observe(getattr(stages, stage) / 1e6)

    def count_connection(self, allow_list: str, granted: bool) -> None:
        """Count one connection that the authenticator was asked about."""
        (self.connections_granted if granted else self.connections_refused).labels(allow_list).inc()

    def observe_batch(self, frames: int, begin_ns: int, end_ns: int) -> None:
        """Note one engine batch, monotonic nanoseconds."""
        self.batch_frames.observe(frames)
        self.engine_busy.inc((end_ns - begin_ns) / 1e9)
        self.utilisation.add(begin_ns, end_ns)

    def watch(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Let `gauge` call `value` at each scrape; `value` must not block."""
        gauge.set_function(value)
