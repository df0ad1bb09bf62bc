"""Banks for whole lines of real processes."""

from pathlib import Path

import pytest

from tests.e2e.chaos import fit_sleeping_banks


@pytest.fixture(scope="session")
def line_banks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of banks with the recipes `caps` and `pins`, made with the sleeping backbone. Not to be changed."""
    return fit_sleeping_banks(tmp_path_factory.mktemp("line-banks"))
