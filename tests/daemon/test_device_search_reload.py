"""A real daemon that searches on the device, and reloads its bank."""

import signal
from dataclasses import replace
from pathlib import Path

from daemon.push_camera import PushCamera
from patchcore_engine.backbones.extractor import FeatureExtractor
from patchcore_engine.backbones.factory import open_extractor
from patchcore_engine.bank import MemoryBank
from patchcore_engine.bank_store import activate, save
from patchcore_engine.fit import FitSettings, fit
from patchcore_engine.images import Geometry, encode_png
from tests.daemon.conftest import good_part, write_config
from tests.daemon.serving import Start, metric, verdicts_of

GEOMETRY = Geometry(resize=64, image_size=64)
ENGINE = '[engine]\nsearch = "device"\nweights = "random:7"\nbatch_sizes = [1, 2]\n'
RECIPES = '[recipes.caps]\nbank = "caps"\ncameras = ["*"]\n'


def fit_bank(pictures: list[Path], extractor: FeatureExtractor, seed: int) -> MemoryBank:
    return fit(pictures, extractor, FitSettings(recipe="caps", geometry=GEOMETRY, coreset_ratio=0.1, seed=seed)).bank


def activated(bank: MemoryBank, banks: Path) -> str:
    return activate(banks, "caps", save(bank, banks, "caps").name).name


def test_a_reload_swaps_the_bank_on_the_device_and_refuses_one_that_is_judged_otherwise(
    start_daemon: Start, tmp_path: Path
) -> None:
    pictures = [tmp_path / f"{number:02}.png" for number in range(12)]
    for number, picture in enumerate(pictures):
        picture.write_bytes(encode_png(good_part(number)))
    extractor = open_extractor(backbone="resnet18", weights="random:7", geometry=GEOMETRY, batch_sizes=(1,))
    first, second = (fit_bank(pictures, extractor, seed) for seed in (0, 1))
    banks = tmp_path / "banks"
    served = [activated(first, banks)]
    daemon = start_daemon(config=write_config(tmp_path / "daemon", banks, ENGINE, recipes=RECIPES))
    assert [entry["recipe"] for entry in daemon.log if entry["event"] == "parity"] == ["caps"]
    with PushCamera(daemon.addresses["push"], "cam1") as camera:
        camera.send(good_part(20))
        verdicts_of(daemon, 1)
        served.append(activated(second, banks))
        daemon.signal(signal.SIGHUP)
        daemon.wait_for("reloaded")
        camera.send(good_part(21))
        verdicts_of(daemon, 2)
        assert second.parity is not None
        activated(second.with_parity(replace(second.parity, scores=second.parity.scores * 1.1)), banks)
        daemon.signal(signal.SIGHUP)
        assert 'Set search = "faiss"' in daemon.wait_for("reload_failed")["error"]
        camera.send(good_part(22))
        verdicts = verdicts_of(daemon, 3)
    assert [verdict.bank for verdict in verdicts] == [*served, served[-1]]
    assert [verdict.reason for verdict in verdicts] == [None] * 3
    assert metric(daemon, 'patchline_reloads_total{outcome="failure"}') == 1
