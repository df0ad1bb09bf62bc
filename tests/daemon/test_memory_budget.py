"""What the daemon may take of memory: added up before it starts, and refused where it can't fit."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from daemon import doctor
from daemon.config import MIB, Settings, load_settings, parse_settings
from daemon.errors import MemoryBudgetError
from daemon.memory_budget import Footprints, MemoryBudget, footprints, memory_budget
from daemon.memory_limit import MemoryLimit, cgroup_limit, memory_limit
from patchcore_engine.backbones.registry import BACKBONES
from patchcore_engine.bank import MemoryBank
from patchcore_engine.bank_store import resolve
from patchcore_engine.errors import BankMissingError
from patchcore_engine.footprint import bank_footprint, extractor_bytes
from tests.daemon.conftest import fit_sleeping_bank, write_config
from tests.daemon.serving import Start, metric, patchline

ROOMY = MemoryLimit(2**40, "a test")


@pytest.fixture
def banks_of(sleeping_banks: Path) -> Footprints:
    return {name: bank_footprint(resolve(sleeping_banks / name)) for name in ("caps", "pins")}


def share(budget: MemoryBudget, name: str) -> int:
    (found,) = [share.bytes for share in budget.shares if share.name == name]
    return found


def budget_of(text: str, banks: Footprints) -> MemoryBudget:
    return memory_budget(parse_settings(text), banks, ROOMY)


@pytest.mark.parametrize(
    ("name", "text", "keys"),
    [
        ("queue", "[queue]\nbytes = 9000000000", "queue.bytes"),
        ("queue", "[queue]\nframes = 90000", "queue.frames"),
        ("queue", '[queue]\nshed = "block"', "queue.bytes"),
        ("connections", "[intake]\nmax_cameras = 300", "intake.max_cameras"),
        ("connections", "[intake]\nmax_frame_bytes = 100000000", "intake.max_frame_bytes"),
        ("held frames", "[intake]\nmax_frame_bytes = 100000000", "intake.max_frame_bytes"),
        ("decoding", "[engine]\nbatch_sizes = [16]", "engine.batch_sizes"),
        ("cameras", "[intake]\nmax_streams = 9000", "intake.max_streams"),
        ("judged parts", "[intake]\nmax_gap = 100000", "intake.max_gap"),
        ("judged parts", "[archive]\nenabled = true", "archive.queue_bytes"),
        ("batches", "[archive]\nenabled = true", "intake.max_frame_bytes"),
        ("subscribers", "[publish]\nhigh_water_mark = 90000", "publish.high_water_mark"),
        ("subscribers", "[publish]\nheatmap_subscriptions = 50", "publish.heatmap_subscriptions"),
        ("replay", "[publish]\nheatmap_subscriptions = 50", "publish.heatmap_subscriptions"),
    ],
)
def test_a_larger_setting_makes_its_share_larger_and_is_named_by_it(
    name: str, text: str, keys: str, banks_of: Footprints
) -> None:
    usual, changed = budget_of("", banks_of), budget_of(text, banks_of)
    assert share(changed, name) > 1.05 * share(usual, name)
    assert keys in next(share for share in changed.shares if share.name == name).keys


def test_what_is_closed_takes_nothing(banks_of: Footprints) -> None:
    text = '[intake]\npush = ""\n[publish]\nverdicts = ""\nreplay = ""'
    names = {share.name for share in budget_of(text, banks_of).shares}
    assert not names & {"held frames", "subscribers", "replay", "archive"}
    assert "archive" in {share.name for share in budget_of("[archive]\nenabled = true", banks_of).shares}


def test_heat_maps_that_are_larger_count_for_more_and_none_for_little(banks_of: Footprints) -> None:
    large = {
        name: replace(bank, manifest=bank.manifest.model_copy(update={"image_size": 384}))
        for name, bank in banks_of.items()
    }
    sizes = [
        share(budget_of(f'[publish]\nheatmaps = "{kind}"', large), "subscribers")
        for kind in ("off", "png", "float16", "overlay")
    ]
    assert sizes == sorted(sizes)
    assert sizes[1] > 10 * sizes[0]


def test_a_bank_counts_twice_for_the_reload_to_come(banks_of: Footprints) -> None:
    one, both = budget_of("", {"caps": banks_of["caps"]}), budget_of("", banks_of)
    assert share(both, "banks") - share(one, "banks") == 2 * banks_of["pins"].resident
    assert share(one, "banks") == 2 * banks_of["caps"].resident + banks_of["caps"].loading


def test_a_reload_counts_the_banks_that_serve_and_those_that_come(banks_of: Footprints) -> None:
    larger = replace(banks_of["caps"], resident=10**9, loading=0)
    budget = memory_budget(Settings(), {"caps": larger}, ROOMY, banks_of)
    assert share(budget, "banks") == 10**9 + sum(bank.resident for bank in banks_of.values())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_network_counts_with_its_weights_and_batch_sizes(backbone: str, banks_of: Footprints) -> None:
    manifest = banks_of["caps"].manifest.model_copy(update={"backbone": backbone, "image_size": 224})
    one = extractor_bytes(manifest, [1], "mindspore")
    assert 50 * MIB < one < extractor_bytes(manifest, [1, 2, 4, 8], "mindspore") < 2000 * MIB
    assert extractor_bytes(manifest, [1], "openvino") > one


def test_search_on_the_device_counts_where_the_cpu_is_the_device(banks_of: Footprints) -> None:
    one = banks_of["caps"].manifest.model_copy(
        update={"backbone": "wide_resnet50_2", "grid": (28, 28), "dimension": 1536, "vectors": 1638}
    )
    banks = {"caps": replace(banks_of["caps"], manifest=one)}
    host, cpu, npu = (
        memory_budget(parse_settings(f"[engine]\n{text}"), banks, ROOMY, {})
        for text in ("", 'search = "device"', 'search = "device"\ndevice = "Ascend"')
    )
    # Measured: 72 MiB for the bank's upload, 935 MiB for the searches of 1, 2, 4 and 8 pictures.
    assert 72 * MIB < share(cpu, "banks") - share(host, "banks") < 144 * MIB
    assert 935 * MIB < share(cpu, "network") - share(host, "network") < 2000 * MIB
    assert npu.bytes == host.bytes


def test_a_bank_that_was_loaded_is_no_larger_than_its_footprint(tmp_path: Path) -> None:
    fit_sleeping_bank(tmp_path / "pictures", tmp_path / "banks", "caps")
    folder = resolve(tmp_path / "banks" / "caps")
    bank, footprint = MemoryBank.load(folder), bank_footprint(folder)
    arrays = (bank.index.vectors, bank.neighbours, bank.owners, bank.calibration_scores)
    assert footprint.manifest == bank.manifest
    assert sum(array.nbytes for array in arrays) + len(bank.preview) < footprint.resident < np.inf
    assert footprint.loading > footprint.resident


def test_a_bank_that_cant_be_read_is_left_for_the_loading_to_report(tmp_path: Path) -> None:
    with pytest.raises(BankMissingError, match=r"manifest\.json can't be read"):
        bank_footprint(tmp_path)
    assert footprints(load_settings(write_config(tmp_path, tmp_path / "none"))) == {}


def test_what_was_measured_counts_where_it_is_above_the_estimate(banks_of: Footprints) -> None:
    budget = budget_of("", banks_of)
    at_rest = share(budget, "process") + share(budget, "network") + share(budget, "banks")
    assert budget.with_resident(at_rest - 1).bytes == budget.bytes
    assert budget.with_resident(at_rest + 7 * MIB).bytes == budget.bytes + 7 * MIB


def test_the_error_names_the_largest_shares_with_their_keys(banks_of: Footprints) -> None:
    settings = parse_settings("[queue]\nbytes = 8589934592")
    memory_budget(settings, banks_of, ROOMY).require()
    with pytest.raises(MemoryBudgetError) as caught:
        memory_budget(settings, banks_of, MemoryLimit(2**32, "the host's memory")).require()
    message = str(caught.value)
    assert "and has 4,096 MiB (the host's memory). Lower what takes most: queue 8,228 MiB (queue.bytes" in message
    assert "\n" not in message


# Where the limit comes from


@pytest.fixture
def groups(tmp_path: Path) -> Callable[..., MemoryLimit | None]:
    def limit(own: str, **limits: str) -> MemoryLimit | None:
        (tmp_path / "cgroup").write_text(f"1:memory:/old\n0::{own}\n")
        for group, text in limits.items():
            folder = tmp_path / "mount" / group.replace("__", "/").removeprefix("root")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "memory.max").write_text(f"{text}\n")
        return cgroup_limit(tmp_path / "cgroup", tmp_path / "mount")

    return limit


def test_the_smallest_memory_max_on_the_way_up_is_the_limit(groups: Callable[..., MemoryLimit | None]) -> None:
    assert groups("/line/left", line__left="4096", line="8192") == MemoryLimit(
        4096, "memory.max of the control group /line/left"
    )
    assert groups("/line/left", line__left="max", line="2048") == MemoryLimit(
        2048, "memory.max of the control group /line"
    )
    assert groups("/", root="1024") == MemoryLimit(1024, "memory.max of the control group /")


def test_without_a_limit_in_its_groups_the_host_is_the_limit(
    groups: Callable[..., MemoryLimit | None], tmp_path: Path
) -> None:
    assert groups("/line", line="max") is None
    assert cgroup_limit(tmp_path / "nowhere") is None
    (tmp_path / "old").write_text("4:memory:/old\n")
    assert cgroup_limit(tmp_path / "old") is None
    assert memory_limit(0).bytes <= psutil.virtual_memory().total
    assert memory_limit(123) == MemoryLimit(123, "service.memory_bytes")


# In the daemon


def test_a_configuration_that_cant_fit_is_refused_in_one_line_before_anything_is_bound(
    tmp_path: Path, sleeping_banks: Path
) -> None:
    config = write_config(tmp_path, sleeping_banks, "[service]\nmemory_bytes = 1073741824\n")
    done = patchline("serve", "--config", str(config))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: This configuration may take ")
    assert "1,024 MiB (service.memory_bytes). Lower what takes most: connections 1,930 MiB (intake.max_cameras" in last
    assert not (tmp_path / "state").exists()
    report = patchline("doctor", "--config", str(config))
    (line,) = [line for line in report.stdout.splitlines() if "memory: all" in line]
    assert line.startswith("fail")


def test_the_budget_is_shown_by_doctor_and_by_metrics(start_daemon: Start) -> None:
    daemon = start_daemon("[service]\nmemory_bytes = 8589934592\n")
    findings = {finding.check: finding for finding in doctor.check_memory(load_settings(daemon.config))}
    assert findings["memory: all"].status == "ok"
    assert metric(daemon, "patchline_memory_limit_bytes") == 2**33
    for name in ("queue", "connections", "subscribers", "banks"):
        shown = metric(daemon, f'patchline_memory_budget_bytes{{share="{name}"}}')
        assert shown == findings[f"memory: {name}"].figures["bytes"] != 0


def test_a_reload_that_cant_fit_beside_what_serves_is_refused(
    start_daemon: Start, tmp_path: Path, sleeping_banks: Path
) -> None:
    config = write_config(tmp_path / "daemon", sleeping_banks)
    settings = load_settings(config)
    needed = memory_budget(settings, footprints(settings), ROOMY).bytes
    text = f"[service]\nmemory_bytes = {needed}\n"
    daemon = start_daemon(config=write_config(tmp_path / "daemon", sleeping_banks, text))
    fitting = config.read_text()
    config.write_text(fitting + '[recipes.more]\nbank = "caps"\n')
    daemon.signal(signal.SIGHUP)
    assert "Lower what takes most" in daemon.wait_for("reload_failed")["error"]
    config.write_text(fitting)
    daemon.signal(signal.SIGHUP)
    assert set(daemon.wait_for("reloaded")["recipes"]) == {"caps", "pins"}


def test_the_budget_follows_a_reload(start_daemon: Start, tmp_path: Path) -> None:
    banks = tmp_path / "banks"
    fit_sleeping_bank(tmp_path / "a", banks, "caps")
    config = write_config(tmp_path / "daemon", banks, recipes='[recipes.caps]\nbank = "caps"\ncameras = ["*"]\n')
    daemon = start_daemon(config=config)
    sample = 'patchline_memory_budget_bytes{share="banks"}'
    before = metric(daemon, sample)
    fit_sleeping_bank(tmp_path / "b", banks, "caps", coreset_ratio=1.0)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("reloaded")
    settings = load_settings(config)
    assert metric(daemon, sample) == share(memory_budget(settings, footprints(settings), ROOMY), "banks") > before


def test_the_ceiling_is_the_budget_and_never_above_what_there_is(banks_of: Footprints) -> None:
    budget = budget_of("", banks_of).with_above(3 * MIB)
    assert budget.ceiling == budget.bytes == budget_of("", banks_of).bytes + 3 * MIB
    assert replace(budget, limit=MemoryLimit(2**30, "a test")).ceiling == 2**30
