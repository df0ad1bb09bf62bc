"""The settings that precede MindSpore, and the device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from patchcore_engine.errors import DeviceError
from patchcore_engine.runtime import check_precision, open_device, prepare_process, read_cpu_flags

AVX512_HOST = frozenset({"avx2", "avx512f"})
AVX2_HOST = frozenset({"avx2"})


def test_a_processor_with_avx512_gets_the_guard() -> None:
    environment: dict[str, str] = {}
    settings = prepare_process(environment, cpu_flags=AVX512_HOST)
    assert environment["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert (settings.isa_guard, settings.onednn_max_cpu_isa) == ("set", "AVX2")


def test_a_processor_without_avx512_needs_no_guard() -> None:
    environment: dict[str, str] = {}
    assert prepare_process(environment, cpu_flags=AVX2_HOST).isa_guard == "not needed"
    assert "ONEDNN_MAX_CPU_ISA" not in environment


def test_the_users_own_setting_is_kept() -> None:
    own = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "GLOG_v": "1", "OMP_NUM_THREADS": "7"}
    environment = dict(own)
    assert prepare_process(environment, cpu_flags=AVX512_HOST).isa_guard == "kept"
    assert environment == own


def test_faiss_keeps_every_core_that_this_process_may_use() -> None:
    environment: dict[str, str] = {}
    prepare_process(environment, cpu_flags=AVX2_HOST)
    assert int(environment["OMP_NUM_THREADS"]) == len(os.sched_getaffinity(0))


def test_processor_flags_are_read_and_their_absence_is_no_error(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu avx2 avx512f\nbugs : none\n")
    if os.uname().machine == "x86_64":
        assert read_cpu_flags(cpuinfo) == {"fpu", "avx2", "avx512f"}
    assert read_cpu_flags(tmp_path / "absent") == frozenset()


def test_float16_on_a_cpu_is_refused_with_the_remedy() -> None:
    with pytest.raises(DeviceError, match='precision = "float32"'):
        check_precision("CPU", "float16")
    check_precision("Ascend", "float16")


@pytest.mark.skipif(any(Path("/dev").glob("davinci[0-9]*")), reason="this host has an Ascend NPU")
def test_an_absent_npu_is_a_device_error_and_leaves_the_cpu_usable() -> None:
    with pytest.raises(DeviceError, match="no usable Ascend device"):
        open_device("Ascend")
    open_device("CPU")


@pytest.mark.ascend
def test_an_npu_that_is_there_opens() -> None:
    subprocess.run(
        [sys.executable, "-c", "from patchcore_engine.runtime import open_device; open_device('Ascend')"], check=True
    )


GRAPH_MODE_RUN = """
import warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", category=DeprecationWarning)
import numpy as np
from patchcore_engine.backbones.factory import open_extractor
from patchcore_engine.images import Geometry
extractor = open_extractor(
    backbone="resnet18", weights="random:7", geometry=Geometry(resize=64, image_size=64), batch_sizes=(1,)
)
patches = extractor.embed(np.arange(64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(1, 64, 64, 3))
assert patches.shape == (1, 64, 384) and np.isfinite(patches).all() and patches.std() > 0.1
"""


def test_graph_mode_is_silent_under_the_installed_numpy() -> None:
    """MindSpore's wheel holds modules built against NumPy 1.x, which complain on stderr where they are used."""
    run = subprocess.run([sys.executable, "-c", GRAPH_MODE_RUN], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for complaint in ("NumPy 1.x", "_ARRAY_API", "ImportError", "numpy.core"):
        assert complaint not in run.stderr


def test_the_commands_side_starts_without_loading_mindspore() -> None:
    code = (
        "import sys; import patchcore_engine.backbones.factory, patchcore_engine.runtime; "
        "sys.exit('mindspore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
