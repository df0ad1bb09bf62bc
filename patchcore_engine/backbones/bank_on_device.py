"""A memory bank on the device that the network runs on, and the graph that searches it there."""

from collections.abc import Sequence, Set
from typing import Any, Final, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.bank_sizes import filled_up, pictures_at_once
from patchcore_engine.runtime import prepare_process

prepare_process()

import mindspore  # noqa: E402  (the process must be prepared first)
from mindspore import Tensor, nn, ops  # noqa: E402

from patchcore_engine.backbones.compiled import give_back  # noqa: E402

# Vectors beyond those asked for that are compared in full, where the products could have misplaced the last ones.
_SPARE_NEIGHBOURS: Final = 7
# The squared length of what fills a bank up: no patch is near it.
_FARTHEST: Final = float(np.finfo(np.float32).max)

ScoreMode = Literal["paper", "modelzoo"]


class _SearchGraph(nn.Cell):  # type: ignore[misc]
    """Patches float32 [n, patches, d] and a bank -> distances [n, patches], nearest int32 [n, patches], around [n, k].

    One matrix product ranks the vectors: y is nearer the smaller |y|^2 - 2xy is, all of it less the bank's mean, so
    that little cancels. What leaves is computed from the difference of each patch and its vector, where nothing does.
    With products that are off by u|x||y|, the squared distance of the vector found is at most 4u|x||y| above the
    smallest one: u is about 2^-22 in float32, and 2^-11 on devices that round the factors to half precision.

    Everything is float32 whatever the network computes in: a squared length of real features passes what float16
    holds. `mode` "modelzoo" gives each picture's worst patch its own nearest vectors, "paper" the neighbours that the
    bank keeps of its nearest one.
    """

    def __init__(self, mode: ScoreMode, asked: int, considered: int) -> None:
        super().__init__()
        self.own_neighbours = mode == "modelzoo"
        self.asked = asked
        self.considered = considered
        self.product = ops.MatMul(transpose_b=True)
        self.argmin = ops.Argmin(axis=-1, output_type=mindspore.int32)
        self.argmax = ops.Argmax(axis=-1, output_type=mindspore.int32)
        self.set_train(False)

    def construct(self, patches: Any, mean: Any, vectors: Any, norms: Any, neighbours: Any) -> Any:
        pictures, count, dimension = patches.shape
        rows = ops.reshape(patches, (pictures * count, dimension)) - mean
        # What a device makes of NaN as a position must not be looked up.
        nearest = ops.minimum(self.argmin(self.product(rows * -2.0, vectors) + norms), vectors.shape[0] - 1)
        distances = ops.reshape(self.lengths(rows - ops.gather(vectors, nearest, 0)), (pictures, count))
        worst = self.argmax(distances) + ops.arange(0, pictures * count, count, dtype=mindspore.int32)
        farthest = ops.gather(rows, worst, 0)
        if self.own_neighbours:
            ranks = self.product(farthest * -2.0, vectors) + norms
            _, chosen = ops.topk(-ranks, self.considered)
        else:
            chosen = ops.gather(neighbours, ops.gather(nearest, worst, 0), 0)
        around = self.lengths(ops.gather(vectors, chosen, 0) - ops.expand_dims(farthest, 1))
        if self.own_neighbours:
            around = -ops.topk(-around, self.asked)[0]
        return distances, ops.reshape(nearest, (pictures, count)), around

    def lengths(self, differences: Any) -> Any:
        return ops.sqrt(ops.reduce_sum(ops.square(differences), -1))


class _PickGraph(nn.Cell):  # type: ignore[misc]
    """Patches [n, patches, d] and positions int32 [m] -> the patches of these pictures, [m, patches, d]."""

    def construct(self, patches: Any, pictures: Any) -> Any:
        return ops.gather(patches, pictures, 0)


class _UploadGraph(nn.Cell):  # type: ignore[misc]
    """Vectors float32 [N, d], their mean, squared lengths [N] from it, neighbours int32 [N, k], and a zero -> the mean,
    the centred vectors, the lengths, the neighbours.

    What a graph makes stays on the device, and goes into the next graph without being copied.
    """

    def construct(self, vectors: Any, mean: Any, lengths: Any, neighbours: Any, zero: Any) -> Any:
        return mean + zero, vectors - mean, lengths + zero, ops.minimum(neighbours, vectors.shape[0] - 1)


class SearchKind(NamedTuple):
    """What a graph is compiled for; banks of one kind share it. `size`: vectors, filling among them."""

    mode: ScoreMode
    size: int
    asked: int
    considered: int

    @classmethod
    def of(cls, mode: ScoreMode, vectors: int, neighbours: int) -> Self:
        """Return the kind of a bank with so many vectors and neighbours of each."""
        return cls(mode, filled_up(vectors), neighbours, min(neighbours + _SPARE_NEIGHBOURS, vectors))


class KindGraphs(NamedTuple):
    """What brings banks of one kind to the device, and what searches them."""

    upload: Any
    search: Any


class SearchGraphs:
    """The graphs of one extractor, which all its banks share."""

    def __init__(self) -> None:
        self.pick = _PickGraph()
        self._of_kind: dict[SearchKind, KindGraphs] = {}

    @property
    def kinds(self) -> Set[SearchKind]:
        """The kinds that there are graphs for."""
        return self._of_kind.keys()

    def of(self, kind: SearchKind) -> KindGraphs:
        if kind not in self._of_kind:
            search = _SearchGraph(kind.mode, kind.asked, kind.considered)
            self._of_kind[kind] = KindGraphs(_UploadGraph(), search)
        return self._of_kind[kind]

    def keep(self, kinds: Set[SearchKind]) -> None:
        """Give back the graphs of all other kinds."""
        for kind in self.kinds - kinds:
            for graph in self._of_kind.pop(kind):
                give_back(graph)

    def release(self) -> None:
        self.keep(set())
        give_back(self.pick)


class BankOnDevice:
    """A bank's vectors and its table of neighbours, resident on the device while this object lives.

    `vectors`: float32 [n, d]. `neighbours`: int32 [n, k]. `patches`: of one picture.
    `pictures_at_once`: how many `search` takes at most.
    """

    def __init__(
        self,
        vectors: NDArray[np.float32],
        neighbours: NDArray[np.int32],
        mode: ScoreMode,
        *,
        patches: int,
        batch_sizes: Sequence[int],
        graphs: SearchGraphs,
    ) -> None:
        count, asked = len(vectors), neighbours.shape[1]
        size = filled_up(count)
        mean = vectors.mean(axis=0)
        filled = np.tile(mean, (size, 1))
        filled[:count] = vectors
        lengths = np.full(size, _FARTHEST, np.float32)
        lengths[:count] = np.square(vectors - mean).sum(axis=1)
        table = np.zeros((size, asked), np.int32)
        table[:count] = neighbours
        zero = np.zeros(1, np.float32)
        self.kind = SearchKind.of(mode, count, asked)
        upload, self._graph = graphs.of(self.kind)
        self._tensors = upload(*(Tensor(array) for array in (filled, mean, lengths, table, zero)))
        self.pictures_at_once = pictures_at_once(count, patches, batch_sizes)

    def search(self, patches: Any) -> tuple[Any, Any, Any]:
        """Search for the patches of one of the batch sizes, a tensor; return tensors as `_SearchGraph` says."""
        found: tuple[Any, Any, Any] = self._graph(patches, *self._tensors)
        return found


def tensor(array: NDArray[np.generic]) -> Any:
    """Return `array` as a tensor, which is copied to the device when a graph takes it."""
    return Tensor(array)
