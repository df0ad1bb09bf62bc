import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from daemon import doctor
from daemon.config import Settings, parse_settings
from patchcore_engine import diagnosis
from patchcore_engine.backbones.registry import backbone_spec
from patchcore_engine.backbones.sleeping import SleepingExtractor
from patchcore_engine.bank_store import activate, save
from patchcore_engine.diagnosis import Finding
from patchcore_engine.fit import FitSettings, fit
from patchcore_engine.images import Geometry
from patchcore_engine.runtime import ProcessSettings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return parse_settings(f"""
[intake]
push = "tcp://127.0.0.1:*"
acked = "ipc://{tmp_path}/acked"
[engine]
engine = "openvino"
[publish]
verdicts = "tcp://127.0.0.1:0"
replay = ""
[telemetry]
listen = ""
[service]
state_dir = "{tmp_path}/state"
""")


@pytest.fixture
def banks(tmp_path: Path) -> Path:
    random = np.random.default_rng(1)
    pictures = tmp_path / "good"
    pictures.mkdir()
    for number in range(12):
        cv2.imwrite(str(pictures / f"{number:02}.png"), random.integers(90, 110, (64, 64, 3), dtype=np.uint8))
    geometry = Geometry(resize=64, image_size=64)
    result = fit(sorted(pictures.iterdir()), SleepingExtractor(), FitSettings(recipe="plates", geometry=geometry))
    version = save(result.bank, tmp_path / "banks", "plates")
    activate(tmp_path / "banks", "plates", version.name)
    return tmp_path / "banks"


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def test_nothing_fails_on_the_host_that_runs_the_tests(settings: Settings, banks: Path) -> None:
    findings = list(doctor.examine(settings, recipes=False, banks=banks))
    assert not [finding for finding in findings if finding.status == "fail"]
    found = by_check(findings)
    assert found["library mindspore"].detail == diagnosis.MINDSPORE_VERSION
    assert "library openvino" in found
    assert float(found["convolution 3x3"].figures["gflops"]) > 0
    assert "all digests match" in found["bank plates"].detail
    assert json.loads(doctor.to_json(findings))["status"] == doctor.worst(findings)


def test_every_fault_comes_with_a_remedy(settings: Settings, tmp_path: Path) -> None:
    findings = [
        *doctor.examine(settings, recipes=True, banks=tmp_path / "nothing"),
        diagnosis.check_python((3, 13)),
        *doctor.check_folder("state folder", Path("/proc/version") / "state"),
    ]
    faults = [finding for finding in findings if finding.status != "ok"]
    assert {"banks", "recipes", "python", "state folder"} <= {finding.check for finding in faults}
    assert all(finding.remedy for finding in faults)


def test_a_library_that_is_not_there_fails_with_the_way_to_get_it() -> None:
    missing, broken = diagnosis.check_libraries({"absent-distribution": "absent", "pytest": "absent_module"})
    assert (missing.status, missing.detail) == ("fail", "not installed")
    assert (broken.status, broken.detail) == ("fail", "can't be imported: No module named 'absent_module'")
    assert "runtime.lock" in (missing.remedy or "")


def test_a_damaged_bank_is_found(banks: Path, settings: Settings) -> None:
    index = (banks / "plates" / "active").resolve() / "index.faiss"
    content = bytearray(index.read_bytes())
    content[len(content) // 2] ^= 1
    index.write_bytes(content)
    (finding,) = doctor.check_banks(banks, settings)
    assert finding.status == "fail"
    assert "index.faiss" in finding.detail


def test_a_recipe_without_its_bank_fails(tmp_path: Path) -> None:
    text = f'[banks]\ndir = "{tmp_path}"\n[recipes.bolts]\nbank = "bolts"\ncameras = ["a"]\n'
    (finding,) = doctor.check_recipes(parse_settings(text))
    assert (finding.check, finding.status) == ("bank bolts", "fail")
    assert "patchline" in (finding.remedy or "")


def test_damaged_weights_are_found_by_their_digest(tmp_path: Path) -> None:
    (tmp_path / backbone_spec("resnet18").published.file_name).write_bytes(b"cut off")
    found = by_check(list(diagnosis.check_weights(tmp_path)))
    assert found["weights resnet18"].status == "fail"
    assert "digest" in found["weights resnet18"].detail
    assert "weights pull resnet18" in (found["weights resnet18"].remedy or "")
    assert found["weights resnet50"].status == "ok"
    assert "absent" in found["weights resnet50"].detail


def test_a_guard_that_lets_the_slow_convolution_through_is_a_warning() -> None:
    finding = diagnosis.check_convolution_guard(ProcessSettings("AVX512_CORE", "kept"))
    assert finding.status == "warning"
    assert "Unset ONEDNN_MAX_CPU_ISA" in (finding.remedy or "")
    for settings in (
        ProcessSettings("AVX2", "set"),
        ProcessSettings("avx2", "kept"),
        ProcessSettings(None, "not needed"),
    ):
        assert diagnosis.check_convolution_guard(settings).status == "ok"


def test_an_absent_npu_fails_where_the_configuration_asks_for_one(tmp_path: Path) -> None:
    if any(Path("/dev").glob("davinci[0-9]*")):
        pytest.skip("this host has an Ascend NPU")
    finding = diagnosis.check_device("Ascend", 0)
    assert finding.status == "fail"
    assert "no Ascend device visible" in finding.detail


def test_an_unused_npu_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "davinci0").touch()
    (tmp_path / "davinci_manager").touch()
    finding = diagnosis.check_device("CPU", nodes=tmp_path)
    assert finding.status == "warning"
    assert finding.detail.endswith("visible: davinci0")


def test_a_port_in_use_names_its_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        finding = doctor.check_address("intake.push", address)
        assert finding.status == "warning"
        assert f"process {os.getpid()}" in finding.detail
    assert doctor.check_address("intake.push", address).status == "ok"


def test_an_address_of_another_host_fails() -> None:
    assert doctor.check_address("intake.push", "tcp://192.0.2.1:5555").status == "fail"


def test_faiss_searches_with_every_processor_although_mindspore_is_imported_first() -> None:
    program = (
        "from patchcore_engine import diagnosis, runtime\n"
        "runtime.prepare_process()\n"
        "import mindspore\n"
        "finding = diagnosis.check_faiss(patches=8, vectors=8, dimension=8)\n"
        "raise SystemExit(None if finding.status == 'ok' else finding.detail)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_reports_in_json_and_fails_by_its_status(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("patchline")), "doctor", "--json", "--banks", str(tmp_path / "none")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert report["status"] == "fail"
    assert {"check", "status", "detail", "remedy", "figures"} == set(report["findings"][0])
