"""The words of a verdict: what was decided, and why a part was not inspected."""

from enum import StrEnum


class Outcome(StrEnum):
    """The verdict on one part. A downstream that ships only on PASS is safe by design."""

    PASS = "pass"  # noqa: S105  (a verdict, not a password)
    REVIEW = "review"
    FAIL = "fail"
    NOT_INSPECTED = "not_inspected"


class Reason(StrEnum):
    """Why a part was not inspected."""

    SHED = "shed"  # the queue was full
    LATE = "late"  # waited longer than the recipe's max_age_ms
    UNDECODABLE = "undecodable"  # the payload is no picture of the stated encoding
    TOO_LARGE = "too_large"  # more bytes or pixels than the limits
    BAD_GEOMETRY = "bad_geometry"  # shape, dtype or bits don't fit the payload or the recipe
    MALFORMED = "malformed"  # the header breaks the wire format
    UNKNOWN_RECIPE = "unknown_recipe"  # no recipe for this camera, or the named one doesn't exist
    TOO_MANY_CAMERAS = "too_many_cameras"  # a new camera beyond max_cameras
    ENGINE_ERROR = "engine_error"  # the engine raised, or returned no finite score
    SHUTTING_DOWN = "shutting_down"  # still waiting when the drain time was over
    JOURNAL_UNAVAILABLE = "journal_unavailable"  # the verdict could not be put on disk
    MISSING = "missing"  # a gap in seq: the frame never reached the host
