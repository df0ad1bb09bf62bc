"""A coreset of more patches than one greedy pass can hold: merged from the coresets of chunks, and reduced again."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.coreset import coreset_size, greedy_k_centre
from patchcore_engine.progress import Advance


@dataclass(frozen=True, kw_only=True, slots=True)
class CoresetPlan:
    """How coresets are made: by one greedy pass over up to `one_pass` patches, beyond that merged from chunks.

    `chunk`: patches that a chunk holds at most, in whole pictures; `multiple`: how many times its share of the coreset
    a chunk puts forward. The plan looks at counts alone, so that the memory of the host doesn't decide what is kept.
    """

    one_pass: int = 500_000
    chunk: int = 50_000
    multiple: int = 2

    def chunk_pictures(self, pictures: int, patches: int, ratio: float) -> int | None:
        """Return how many pictures of `patches` each a chunk holds, or None where one pass serves.

        That is also where a chunk would put all of its patches forward.
        """
        if pictures * patches <= self.one_pass or ratio * self.multiple >= 1:
            return None
        return max(1, self.chunk // patches)


class MergedCoreset:
    """Greedy k-centre by merge and reduce (Har-Peled and Mazumdar, STOC 2004), in memory for the candidates alone.

    Each chunk puts forward the centres that the greedy choice makes among its own patches; the coreset is the greedy
    choice among those candidates. Let c be the largest covering radius of a chunk by its candidates. Greedy choice is
    within twice the optimum (Gonzalez 1985), and k centres that cover all patches within R cover the candidates, too;
    by the triangle inequality the coreset of k then covers every patch within 2 R + c (composable coresets: Malkomes et
    al., NIPS 2015; Ceccarello, Pietracaprina and Pucci, VLDB 2019). One pass gives 2 R.
    """

    def __init__(self, ratio: float, multiple: int, seed: int) -> None:
        self._share = ratio * multiple
        self._seed = seed
        self._candidates: list[NDArray[np.float32]] = []

    def put_forward(self, points: NDArray[np.float32]) -> NDArray[np.int64]:
        """Take a chunk, float32 [n, d], projected; return the positions of its candidates in it, ascending."""
        chosen = np.sort(greedy_k_centre(points, coreset_size(len(points), self._share), self._seed))
        self._candidates.append(points[chosen])
        return chosen

    def select(self, count: int, advance: Advance) -> NDArray[np.int64]:
        """Return the positions of `count` centres among all candidates put forward, in order of selection."""
        return greedy_k_centre(np.concatenate(self._candidates), count, self._seed, advance)
