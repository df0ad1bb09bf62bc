"""Giving back what MindSpore compiled for a cell: the one place that uses names it doesn't promise to keep."""

from typing import Any

from patchcore_engine.runtime import prepare_process

prepare_process()

from mindspore.graph.api import _cell_graph_executor  # noqa: E402  (the process must be prepared first)


def give_back(cell: Any) -> None:
    """Free the graphs that were compiled for `cell`, and leave those of all other cells as they are.

    The thread that runs graphs calls it, before the cell is dropped. A cell that is called again is compiled again.
    """
    # A cell that is collected does this itself, in whatever thread that happens, but names itself: then MindSpore 2.10
    # forgets a key of its inputs, too, which belongs to every cell that takes such inputs, and the next of them is
    # compiled again beside its old graph. With None, as in `mindspore.ms_memory_recycle`, the keys stay; and where
    # `compile_cache` is empty, `Cell.__del__` leaves the compiler alone.
    _cell_graph_executor.del_net_res(None, cell.compile_cache)
    cell.compile_cache.clear()
