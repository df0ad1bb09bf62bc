"""One reading of a running daemon: what /healthz and /readyz say, and the samples of /metrics."""

import http.client
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from daemon.errors import NotRunningError

TIMEOUT_S: Final = 5.0

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scrape:
    """`health`, `readiness`: "" where all is well, else the reason. `at_s`: monotonic clock, seconds."""

    at_s: float
    health: str
    readiness: str
    samples: Mapping[str, Mapping[Labels, float]]

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of `patchline_{name}` that have these labels; 0 where there are none."""
        wanted = labels.items()
        return sum(
            value for key, value in self.samples.get(f"patchline_{name}", {}).items() if wanted <= dict(key).items()
        )

    @property
    def resident_bytes(self) -> float:
        """What the daemon's process takes of memory; 0 where the host doesn't tell."""
        return sum(self.samples.get("process_resident_memory_bytes", {}).values())

    def by(self, label: str, name: str) -> dict[str, float]:
        """Return the samples of `patchline_{name}` added up for each value of `label`."""
        found: dict[str, float] = defaultdict(float)
        for key, value in self.samples.get(f"patchline_{name}", {}).items():
            found[dict(key)[label]] += value
        return dict(found)

    def labels(self, name: str) -> list[dict[str, str]]:
        """Return the labels of every sample of `patchline_{name}`."""
        return [dict(key) for key in self.samples.get(f"patchline_{name}", {})]


def scrape(address: str) -> Scrape:
    """Read the daemon whose telemetry listens at `address`, HOST:PORT. Raises NotRunningError."""
    at_s = time.monotonic()
    health, readiness = (_page(address, path) for path in ("/healthz", "/readyz"))
    _status, text = _page(address, "/metrics")
    return Scrape(at_s=at_s, health=_complaint(*health), readiness=_complaint(*readiness), samples=read_samples(text))


def read_samples(text: str) -> dict[str, dict[Labels, float]]:
    """Read Prometheus's text format: name -> labels -> value."""
    samples: dict[str, dict[Labels, float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name][frozenset(sample.labels.items())] = sample.value
    return dict(samples)


def _page(address: str, path: str) -> tuple[int, str]:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise NotRunningError(f"http://{address}{path} doesn't answer: {error or type(error).__name__}.") from error
    finally:
        connection.close()


def _complaint(status: int, text: str) -> str:
    return "" if status == http.client.OK else text.strip()
