"""A plan of faults as values, for the `FailingExtractor`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Fault(BaseModel):
    """One fault: `kind` strikes `batches` batches (None: all) after the first `after`.

    `raise`: the engine raises.  `nan`: it returns no number.  `hang`: it takes `seconds` more.  `slow`: it takes
    `factor` times as long.  `out_of_memory`: a batch of more than `fits` pictures doesn't fit.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["raise", "hang", "nan", "slow", "out_of_memory"]
    after: Annotated[int, Field(ge=0)] = 0
    batches: Annotated[int, Field(ge=1)] | None = None
    seconds: Annotated[float, Field(gt=0, le=86_400)] = 3600.0
    factor: Annotated[float, Field(ge=1, le=1000)] = 10.0
    fits: Annotated[int, Field(ge=0)] = 1

    def strikes(self, batch: int) -> bool:
        """Whether the fault is on in this batch, counted from 0."""
        return self.after <= batch and (self.batches is None or batch < self.after + self.batches)
