"""What the daemon may take of memory at most, share by share, before it takes any of it.

Every queue and buffer is bounded in bytes, or in messages of bounded size, so that the sum is a ceiling and no guess.
Not in it: the kernel's own socket buffers, and connections beyond the numbers that the settings state. What these make
ZeroMQ keep, and messages that never end, is held below the ceiling by cutting them (MemoryCeiling).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from daemon.config import MIB, Settings
from daemon.errors import MemoryBudgetError
from daemon.ingest import RECEIVED_AHEAD, acks_waiting, largest_part, most_held_bytes
from daemon.memory_limit import MemoryLimit
from daemon.pipeline import JUDGED_BYTES
from daemon.protocol import REPLAY_REPLY_BYTES
from daemon.push_order import MOST_HELD
from daemon.reception import MAX_UNDER_WAY
from daemon.recipes import bank_folder
from daemon.replay import REPLIES_PER_CLIENT
from daemon.scheduler import OVERFILL
from patchcore_engine.backbones.bank_sizes import filled_up
from patchcore_engine.backbones.sleeping import NAME as SLEEPING
from patchcore_engine.bank_store import resolve
from patchcore_engine.errors import PatchcoreError
from patchcore_engine.footprint import (
    DECODING_BYTES,
    PROCESS_BYTES,
    BankFootprint,
    bank_footprint,
    bank_on_device_bytes,
    device_search_bytes,
    extractor_bytes,
    search_bytes,
)
from patchcore_engine.manifest import Manifest

# A verdict with the most regions, packed, and what ZeroMQ keeps beside a message.
VERDICT_BYTES: Final = 4 * 1024 + 512
# A small frame holds the whole buffer that it was received in.
WAITING_FRAME_BYTES: Final = 16 * 1024
PART_BYTES: Final = 3 * 1024
CAMERA_BYTES: Final = 16 * 1024
STREAM_BYTES: Final = 512
# SQLite's caches of the writer and of two readers, with their statements.
JOURNAL_BYTES: Final = 16 * MIB
# A picture and its map as float32, for each pixel of the crop, and what the engine and a heat map make of them.
CROP_BYTES: Final = 3 + 4
WORKED_CROP_BYTES: Final = 24
# An archived part is held as received, decoded, and encoded again.
ARCHIVED_COPIES: Final = 4
# Bytes for each pixel of a heat map, at most: noise doesn't compress.
HEATMAP_BYTES: Final = {"png": 1.01, "overlay": 3.03, "float16": 2.0, "off": 0.0}
SHARES_NAMED: Final = 4

Footprints = Mapping[str, BankFootprint]


@dataclass(frozen=True, slots=True)
class Share:
    """One part of the budget. `keys`: the settings that decide it."""

    name: str
    bytes: int
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """What may be used at most, and what is there."""

    shares: tuple[Share, ...]
    limit: MemoryLimit

    @property
    def bytes(self) -> int:
        return sum(share.bytes for share in self.shares)

    @property
    def ceiling(self) -> int:
        """Bytes that the process is to stay below."""
        return min(self.bytes, self.limit.bytes)

    def require(self) -> None:
        """Raise MemoryBudgetError, with the largest shares and their keys, unless all of it fits."""
        if self.bytes <= self.limit.bytes:
            return
        raise MemoryBudgetError(f"{self.excess()} {self.remedy()}")

    def excess(self) -> str:
        limit = self.limit
        return f"This configuration may take {in_mib(self.bytes)} and has {in_mib(limit.bytes)} ({limit.source})."

    def remedy(self) -> str:
        movable = sorted((share for share in self.shares if share.keys), key=lambda share: -share.bytes)
        named = "; ".join(
            f"{share.name} {in_mib(share.bytes)} ({', '.join(share.keys)})" for share in movable[:SHARES_NAMED]
        )
        return f"Lower what takes most: {named}. `patchline doctor` shows every share."

    def with_resident(self, resident: int, at_rest: Iterable[str] = ("process", "network", "banks")) -> "MemoryBudget":
        """Return the budget with what the loaded daemon was seen to take, where that is above the estimate."""
        estimated = sum(share.bytes for share in self.shares if share.name in at_rest)
        return self.with_above(max(resident - estimated, 0))

    def with_above(self, measured: int) -> "MemoryBudget":
        """Return the budget with `measured` bytes above the estimate."""
        return replace(self, shares=(*self.shares, Share("measured above the estimate", measured)))


def footprints(settings: Settings) -> dict[str, BankFootprint]:
    """Return recipe -> its active bank's footprint; what can't be read is left out, for the loading to report."""
    found: dict[str, BankFootprint] = {}
    for name, recipe in settings.recipes.items():
        try:
            found[name] = bank_footprint(resolve(bank_folder(settings, recipe)))
        except PatchcoreError:
            continue
    return found


def memory_budget(
    settings: Settings, banks: Footprints, limit: MemoryLimit, running: Footprints | None = None
) -> MemoryBudget:
    """Add up every share. `banks`: of the recipes in `settings`; `running`: those that serve while these are loaded.

    Without `running` every bank counts twice, for the reload to come.
    """
    intake, queue, publish, archive = settings.intake, settings.queue, settings.publish, settings.archive
    batch = max(settings.engine.batch_sizes)
    beside = banks if running is None else running
    manifests = [bank.manifest for bank in (*banks.values(), *beside.values())]
    networks = {manifest.extractor_identity: manifest for manifest in manifests}.values()
    on_cpu = [one for one in manifests if _is_searched_on_the_cpu_as_device(one, settings)]
    searches = {(filled_up(one.vectors), one.score_mode, one.n_neighbors): one for one in on_cpu}.values()
    crop = max((manifest.image_size for manifest in manifests), default=0) ** 2
    frame = intake.max_frame_bytes
    kept, kept_keys = (frame, ("intake.max_frame_bytes",)) if archive.enabled else (0, ())
    waiting = OVERFILL if queue.shed == "block" else 1
    heatmap = max(int(HEATMAP_BYTES[publish.heatmaps] * crop), VERDICT_BYTES)
    shares = [
        Share("process", PROCESS_BYTES),
        Share(
            "network",
            sum(extractor_bytes(one, settings.engine.batch_sizes, settings.engine.engine) for one in networks)
            + max((search_bytes(one, batch) for one in manifests), default=0)
            + sum(device_search_bytes(one, settings.engine.batch_sizes) for one in searches),
            ("engine.batch_sizes", *(("engine.search",) if on_cpu else ())),
        ),
        Share(
            "banks",
            sum(bank.resident for bank in (*banks.values(), *beside.values()))
            + max((bank.loading for bank in banks.values()), default=0)
            + sum(map(bank_on_device_bytes, on_cpu)),
            ("recipes",),
        ),
        Share(
            "connections",
            intake.max_cameras * (RECEIVED_AHEAD * largest_part(frame) + acks_waiting(intake.window) * VERDICT_BYTES),
            ("intake.max_cameras", "intake.max_frame_bytes"),
        ),
        Share(
            "queue",
            waiting * (queue.bytes + queue.frames * WAITING_FRAME_BYTES) + frame,
            ("queue.bytes", "queue.frames"),
        ),
        Share("decoding", DECODING_BYTES + batch * frame, ("engine.batch_sizes", "intake.max_frame_bytes")),
        Share("batches", 2 * batch * (WORKED_CROP_BYTES * crop + kept), ("engine.batch_sizes", *kept_keys)),
        Share(
            "judged parts",
            2 * (JUDGED_BYTES + batch * (CROP_BYTES * crop + kept))
            + (2 * archive.queue_bytes if archive.enabled else 0)
            + (MAX_UNDER_WAY + intake.max_gap) * PART_BYTES,
            ("intake.max_gap", *(("archive.queue_bytes",) if archive.enabled else ())),
        ),
        Share(
            "cameras",
            intake.max_cameras * (CAMERA_BYTES + intake.max_streams * STREAM_BYTES),
            ("intake.max_cameras", "intake.max_streams"),
        ),
        Share("journal", JOURNAL_BYTES),
    ]
    if intake.push:
        size = most_held_bytes(frame) + MOST_HELD * WAITING_FRAME_BYTES
        shares.append(Share("held frames", size, ("intake.max_frame_bytes",)))
    if publish.verdicts:
        size = publish.heatmap_subscriptions * publish.high_water_mark * (heatmap + VERDICT_BYTES)
        shares.append(Share("subscribers", size, ("publish.heatmap_subscriptions", "publish.high_water_mark")))
    if publish.replay:
        replies = publish.heatmap_subscriptions * (REPLIES_PER_CLIENT + 1) * 2 * REPLAY_REPLY_BYTES
        shares.append(Share("replay", replies, ("publish.heatmap_subscriptions",)))
    if archive.enabled:
        size = archive.queue_bytes + ARCHIVED_COPIES * frame + archive.queue * CROP_BYTES * crop
        shares.append(Share("archive", size, ("archive.queue_bytes", "archive.queue")))
    return MemoryBudget(tuple(shares), limit)


def _is_searched_on_the_cpu_as_device(manifest: Manifest, settings: Settings) -> bool:
    engine = settings.engine
    return engine.search == "device" and engine.device == "CPU" and manifest.backbone != SLEEPING


def in_mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"
