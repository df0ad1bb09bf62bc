"""Fixtures that every test may ask for."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How fast a busy machine draws its examples says nothing about the code.
settings.register_profile("patchline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patchline")

# A suite that a shell runs in the background has SIGINT ignored, and would hand that on to every process it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Warnings are errors in the processes that tests start too, but for the one that MindSpore makes as it ends.
os.environ["PYTHONWARNINGS"] = "error,ignore:getName() is deprecated:DeprecationWarning"

ROOT = Path(__file__).resolve().parent.parent


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("ascend") and not any(Path("/dev").glob("davinci[0-9]*")):
        pytest.skip("needs an Ascend NPU; this host has no /dev/davinci device")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def mvtec_bottle() -> Path:
    """A folder in MVTec AD's layout that holds the category `bottle`; its tests are marked `real_data`.

    The data's licence is non-commercial, so it is never part of the project: it is looked for in PATCHLINE_MVTEC and
    beside the checkout.
    """
    folder = Path(os.environ.get("PATCHLINE_MVTEC", ROOT.parent / "shared" / "data" / "mvtec_bottle_360"))
    if not (folder / "bottle" / "train" / "good").is_dir():
        pytest.skip("the MVTec bottle pictures are not here; set PATCHLINE_MVTEC to the folder that holds `bottle`")
    return folder
