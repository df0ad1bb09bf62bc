"""A real network between cameras, daemon and controller is cut: no part is lost, judged twice, or told out of order."""

from pathlib import Path
from typing import Literal

import pytest

from tests.e2e.namespaces import Network
from tests.e2e.network_line import NetworkLine


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("cuts", [1, pytest.param(20, marks=pytest.mark.chaos)])
@pytest.mark.parametrize("kind", ["link down", "silent"])
def test_a_cut_that_ends_every_session_loses_nothing(
    tmp_path: Path, line_banks: Path, kind: Literal["link down", "silent"], cuts: int
) -> None:
    with Network() as network, NetworkLine(tmp_path, line_banks, network) as line:
        for _ in range(cuts):
            line.work()
            if kind == "silent":
                network.cut_silently()
            else:
                network.cut_link()
            line.wait_until_cut_off()
            if kind == "silent":
                network.mend_silently()
            else:
                network.mend_link()
        line.work()
        account = line.finish()
    assert account.balanced, account
    assert account.judged == account.sent
    assert line.resent > 0


def test_a_link_that_flaps_loses_nothing(tmp_path: Path, line_banks: Path) -> None:
    with Network() as network, NetworkLine(tmp_path, line_banks, network) as line:
        for _ in range(8):
            line.work(2)
            network.cut_link()
            network.mend_link()
        account = line.finish()
    assert account.balanced, account
    assert account.judged == account.sent


def test_packets_that_are_lost_late_or_out_of_order_lose_nothing(tmp_path: Path, line_banks: Path) -> None:
    with Network() as network:
        network.disturb("delay", "20ms", "10ms", "loss", "5%", "reorder", "5%")
        with NetworkLine(tmp_path, line_banks, network) as line:
            line.work(100)
            account = line.finish()
    assert account.balanced, account
    assert account.judged == account.sent
