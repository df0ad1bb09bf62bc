"""MindSpore checkpoints (`.ckpt`) of a backbone's tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.errors import WeightsFormatError
from patchcore_engine.runtime import prepare_process


def read_checkpoint(path: Path) -> dict[str, NDArray[Any]]:
    """Read every tensor of a checkpoint; raises WeightsFormatError where it isn't one."""
    prepare_process()
    import mindspore

    try:
        parameters = mindspore.load_checkpoint(str(path))
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise WeightsFormatError(f"{path} can't be used: it isn't a MindSpore checkpoint.") from error
    return {name: parameter.asnumpy() for name, parameter in parameters.items()}


def write_checkpoint(path: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Write `tensors` as a checkpoint, whole or not at all. Raises WeightsFormatError where that fails."""
    prepare_process()
    import mindspore

    # MindSpore adds the suffix itself where it is missing, so that the draft must carry it too.
    draft = path.with_name(f".{path.name}.draft.ckpt")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        entries = [{"name": name, "data": mindspore.Tensor(tensor)} for name, tensor in tensors.items()]
        mindspore.save_checkpoint(entries, str(draft))
        draft.chmod(0o644)
        draft.replace(path)
    except (RuntimeError, ValueError, OSError) as error:
        draft.unlink(missing_ok=True)
        raise WeightsFormatError(f"{path} can't be written: {error}.") from error
