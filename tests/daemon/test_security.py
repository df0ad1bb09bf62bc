"""A real daemon as an outsider sees it: what listens where, whom it lets in, and what it says of an open door."""

import json
import os
import signal
import socket
import stat
from pathlib import Path

import psutil
import pytest

from daemon.config import Settings, load_settings
from daemon.doctor import check_keys
from daemon.push_camera import PushCamera
from daemon.security import CAMERAS, DOORS, SUBSCRIBERS, address_of, is_reachable
from daemon.sender import FrameSender
from tests.daemon.conftest import good_part, write_config
from tests.daemon.keyring import Keyring
from tests.daemon.serving import Start, journalled, metric, page, patchline, until, verdicts_of

REFUSED = 'patchline_connections_refused_total{list="cameras"}'
# A daemon whose count of connections fails, and with it the thread that lets peers in.
BROKEN_AUTHENTICATOR = """
import sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from daemon.logs import set_up_logging
from daemon.service import Service
from daemon.telemetry import Telemetry

class Failing(Telemetry):
    asked = 0
    def count_connection(self, allow_list, granted):
        self.asked += 1
        if self.asked == 2:
            raise MemoryError("no room for another connection")

set_up_logging("info")
sys.exit(Service(Path(sys.argv[1]), Failing(CollectorRegistry())).run())
"""


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keys")


def test_every_default_address_is_on_the_loopback_interface() -> None:
    settings = Settings()
    assert not [key for key in DOORS if is_reachable(address_of(settings, key))]
    assert not is_reachable(f"tcp://{settings.telemetry.listen}")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:5555", "tcp://127.9.9.9:1", "tcp://[::1]:5555", "tcp://lo:5555"])
def test_loopback_is_within_the_host(address: str) -> None:
    assert not is_reachable(address)
    assert not is_reachable("ipc:///run/patchline/push")
    assert not is_reachable("")


@pytest.mark.parametrize(
    "address", ["tcp://*:5555", "tcp://0.0.0.0:*", "tcp://192.168.1.1:5555", "tcp://[::]:5555", "tcp://eth1:5555"]
)
def test_any_other_address_is_in_reach_of_other_hosts(address: str) -> None:
    assert is_reachable(address)


def config_with_push_at(address: str, tmp_path: Path, banks: Path, text: str = "") -> Path:
    config = write_config(tmp_path / "daemon", banks, text)
    config.write_text(config.read_text().replace('push = "tcp://127.0.0.1:*"', f'push = "{address}"'))
    return config


def test_a_daemon_listens_on_the_loopback_interface_alone(
    start_daemon: Start, tmp_path: Path, sleeping_banks: Path
) -> None:
    daemon = start_daemon(config=config_with_push_at(f"ipc://{tmp_path}/push", tmp_path, sleeping_banks))
    listening = [c for c in psutil.Process(daemon.pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert len(listening) == 4
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}
    assert stat.S_IMODE((tmp_path / "push").stat().st_mode) == 0o600
    assert not [entry for entry in daemon.log if entry["event"] == "doors_without_keys"]
    assert metric(daemon, "patchline_doors_without_keys") == 0


def test_a_door_that_other_hosts_reach_without_keys_is_warned_of(
    start_daemon: Start, tmp_path: Path, sleeping_banks: Path
) -> None:
    daemon = start_daemon(config=config_with_push_at("tcp://0.0.0.0:*", tmp_path, sleeping_banks))
    (warning,) = [entry for entry in daemon.log if entry["event"] == "doors_without_keys"]
    assert warning["level"] == "warning"
    assert warning["doors"] == ["intake.push"]
    assert "patchline keys new" in warning["advice"]
    assert metric(daemon, "patchline_doors_without_keys") == 1
    finding = check_keys(load_settings(daemon.config))
    assert (finding.status, finding.check) == ("warning", "keys")
    assert "intake.push" in finding.detail
    assert "patchline keys new" in (finding.remedy or "")


def test_with_keys_only_those_on_the_lists_get_in(start_daemon: Start, keyring: Keyring) -> None:
    daemon = start_daemon(keyring.section)
    bound = next(entry for entry in daemon.log if entry["event"] == "bound")
    assert bound["server_key"].encode() == keyring.of("camera").server
    with (
        PushCamera(daemon.addresses["push"], "cam1", keys=keyring.new("stranger")) as stranger,
        PushCamera(daemon.addresses["push"], "cam1", keys=keyring.of("camera")) as camera,
    ):
        stranger.send(good_part(0), part="forged")
        until(lambda: metric(daemon, REFUSED) >= 1)
        camera.send(good_part(1), part="real")
        (verdict,) = verdicts_of(daemon, 1, keyring.of("subscriber"))
        assert verdict.part == "real"
        refused = daemon.wait_for("peer_refused")
        assert refused["list"] == "cameras"
        assert refused["key"] in (keyring.folder / "stranger.pub").read_text()
        assert refused["address"] == "127.0.0.1"
        assert "security.cameras" in refused["advice"]
    assert [verdict.part for verdict in journalled(daemon)] == ["real"]


def test_a_reload_takes_a_key_away_although_a_bank_is_damaged(start_daemon: Start, keyring: Keyring) -> None:
    other = keyring.new("other")
    keyring.allow(CAMERAS, "camera", "other")
    daemon = start_daemon(keyring.section)
    with (
        FrameSender(daemon.addresses["acked"], "cam1", keys=keyring.of("camera"), flush_s=0) as revoked,
        FrameSender(daemon.addresses["acked"], "cam2", keys=other) as stays,
    ):
        revoked.send(good_part(0))
        assert revoked.flush(30)
        keyring.allow(CAMERAS, "other")
        daemon.config.write_text(daemon.config.read_text().replace('bank = "pins"', 'bank = "no_such_bank"'))
        daemon.signal(signal.SIGHUP)
        assert "recipes.pins" in daemon.wait_for("reload_failed")["error"]
        revoked.send(good_part(1))
        stays.send(good_part(2))
        assert stays.flush(30)
        until(lambda: metric(daemon, REFUSED) >= 1)
        assert revoked.pending == 1
    assert [verdict.camera for verdict in journalled(daemon)] == ["cam1", "cam2"]


def test_a_reload_changes_the_daemon_s_key(start_daemon: Start, keyring: Keyring) -> None:
    daemon = start_daemon(keyring.section)
    keyring.new("daemon-2")
    daemon.config.write_text(daemon.config.read_text().replace("daemon.key", "daemon-2.key"))
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("reloaded")
    assert not [entry for entry in daemon.log if entry["event"] == "restart_needed"]
    addresses = json.loads((daemon.config.parent / "state" / "addresses.json").read_text())
    assert addresses["server_key"].encode() == keyring.of("camera", "daemon-2").server
    with FrameSender(daemon.addresses["acked"], "cam1", keys=keyring.of("camera", "daemon-2")) as sender:
        sender.send(good_part(0))
        assert sender.flush(30)
    assert verdicts_of(daemon, 1, keyring.of("subscriber", "daemon-2"))


def test_a_list_that_cant_be_read_leaves_the_old_one_in_force(start_daemon: Start, keyring: Keyring) -> None:
    daemon = start_daemon(keyring.section)
    keyring.list_file(SUBSCRIBERS).write_text("not a key\n")
    daemon.signal(signal.SIGHUP)
    assert "line 1, is neither a public key" in daemon.wait_for("reload_failed")["error"]
    with PushCamera(daemon.addresses["push"], "cam1", keys=keyring.of("camera")) as camera:
        camera.send(good_part(0))
        assert verdicts_of(daemon, 1, keyring.of("subscriber"))
    assert page(daemon, "/healthz")[0] == 200


def test_asking_for_keys_at_all_needs_a_restart_and_says_so(start_daemon: Start, keyring: Keyring) -> None:
    daemon = start_daemon()
    daemon.config.write_text(daemon.config.read_text() + keyring.section)
    daemon.signal(signal.SIGHUP)
    assert daemon.wait_for("restart_needed")["section"] == "security"
    daemon.wait_for("reloaded")


def test_an_authenticator_that_fails_closes_the_doors_and_is_seen(start_daemon: Start, keyring: Keyring) -> None:
    daemon = start_daemon(keyring.section, program=("-c", BROKEN_AUTHENTICATOR))
    camera = keyring.of("camera")
    with FrameSender(daemon.addresses["acked"], "cam1", keys=camera) as inside:
        inside.send(good_part(0))
        assert inside.flush(30)
        with PushCamera(daemon.addresses["push"], "cam2", keys=camera) as outside:
            outside.send(good_part(1))
            assert "Restart the daemon" in daemon.wait_for("authenticator_failed")["advice"]
            status, text = page(daemon, "/healthz")
            assert (status, "authenticator" in text) == (503, True)
            assert metric(daemon, "patchline_authenticator_alive") == 0
            assert metric(daemon, "patchline_healthy") == 0
            inside.send(good_part(2))
            assert inside.flush(30)
    assert [verdict.camera for verdict in journalled(daemon)] == ["cam1", "cam1"]
    assert daemon.stop() == 0


def test_a_daemon_doesnt_start_with_a_secret_key_that_others_may_read(
    tmp_path: Path, sleeping_banks: Path, keyring: Keyring
) -> None:
    keyring.server_key.chmod(0o640)
    config = write_config(tmp_path / "daemon", sleeping_banks, keyring.section)
    served = patchline("serve", "--config", str(config))
    assert served.returncode == 1
    assert f"chmod 600 {keyring.server_key}" in served.stderr.splitlines()[-1]
    finding = check_keys(load_settings(config))
    assert finding.status == "fail"
    assert "chmod 600" in finding.detail


def test_the_doctor_counts_the_keys_and_sees_an_empty_list(
    tmp_path: Path, sleeping_banks: Path, keyring: Keyring
) -> None:
    settings = load_settings(write_config(tmp_path / "daemon", sleeping_banks, keyring.section))
    finding = check_keys(settings)
    assert (finding.status, finding.figures) == ("ok", {"cameras": 1, "subscribers": 1})
    keyring.allow(CAMERAS)
    finding = check_keys(settings)
    assert finding.status == "warning"
    assert "The list of cameras is empty" in (finding.remedy or "")
    assert check_keys(Settings()).status == "ok"


def test_the_key_comes_from_a_systemd_credential(start_daemon: Start, keyring: Keyring) -> None:
    section = keyring.section.replace(str(keyring.server_key), "credential:daemon.key")
    daemon = start_daemon(section, environment={"CREDENTIALS_DIRECTORY": str(keyring.folder)})
    with FrameSender(daemon.addresses["acked"], "cam1", keys=keyring.of("camera")) as sender:
        sender.send(good_part(0))
        assert sender.flush(30)


def test_push_and_watch_take_keys(start_daemon: Start, keyring: Keyring, tmp_path: Path) -> None:
    daemon = start_daemon(keyring.section)
    config, keys = str(daemon.config), keyring.folder
    pushed = patchline(
        *("push", "--simulate", "disc", "--count", "2", "--acked", "--address", daemon.addresses["acked"]),
        *("--camera", "cam1", "--key", str(keys / "camera.key"), "--server-key", str(keys / "daemon.pub")),
    )
    assert pushed.returncode == 0, pushed.stderr
    with PushCamera(daemon.addresses["push"], "cam2", keys=keyring.of("camera")) as camera:
        camera.send(good_part(0))
    watched = patchline(
        *("watch", "--json", "--count", "3", "--from-offset", "0", "--timeout", "30"),
        *("--config", config, "--key", str(keys / "subscriber.key")),
    )
    assert watched.returncode == 0, watched.stderr
    assert [json.loads(line)["camera"] for line in watched.stdout.splitlines()] == ["cam1", "cam1", "cam2"]
    without = patchline("watch", "--config", config, "--timeout", "1")
    assert without.returncode == 1
    assert "--key FILE" in without.stderr
    refused = patchline(
        *("push", "--simulate", "disc", "--count", "1", "--acked", "--timeout", "1"),
        *("--config", config, "--key", str(keys / "subscriber.key")),
    )
    assert refused.returncode == 1
    assert "is this camera's on its list?" in refused.stderr


def test_files_of_the_daemon_are_never_writable_by_others(
    start_daemon: Start, tmp_path: Path, sleeping_banks: Path
) -> None:
    text = "[security]\nipc_mode = 0o666\n"
    config = config_with_push_at(f"ipc://{tmp_path}/push", tmp_path, sleeping_banks, text)
    before = os.umask(0)
    try:
        daemon = start_daemon(config=config)
    finally:
        os.umask(before)
    files = [path for path in (daemon.config.parent / "state").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if path.stat().st_mode & 0o022]
    assert stat.S_IMODE((tmp_path / "push").stat().st_mode) == 0o666
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(tmp_path / "push"))
