"""The cells that the backbones share: forms for one device and for all must not differ in what they compute."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
from mindspore import Tensor

from patchcore_engine.backbones.layers import Pool, pools
from patchcore_engine.runtime import open_device
from tests.engine.conftest import MakeExtractor


@pytest.mark.parametrize(("kind", "kernel", "stride"), [("average", 3, 1), ("maximum", 3, 2)])
@pytest.mark.parametrize("shape", [(2, 5, 28, 28), (1, 3, 13, 8)])
def test_both_forms_of_a_pool_agree(
    kind: Literal["average", "maximum"], kernel: int, stride: int, shape: Sequence[int]
) -> None:
    open_device("CPU")
    maps = np.random.RandomState(3).uniform(0, 1, shape).astype(np.float32)
    forms = [Pool(kind, kernel, stride) for _ in range(2)]
    forms[1].portable = True
    padded_inside, padded_before = (form(Tensor(maps)).asnumpy() for form in forms)
    assert padded_inside.shape == (*shape[:2], -(-shape[2] // stride), -(-shape[3] // stride))
    np.testing.assert_allclose(padded_inside, padded_before, rtol=1e-6)


def test_a_network_is_portable_for_as_long_as_it_is_exported(make_extractor: MakeExtractor) -> None:
    network = make_extractor().network

    def fail_to_export() -> None:
        with network.portable():
            assert [pool.portable for pool in pools(network)] == [True, True]
            raise ValueError("stopped")

    assert [pool.portable for pool in pools(network)] == [False, False]
    with pytest.raises(ValueError, match="stopped"):
        fail_to_export()
    assert [pool.portable for pool in pools(network)] == [False, False]
