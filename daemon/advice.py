"""What to do about parts that were not inspected, in a sentence: the log says it, and `patchline doctor --live`."""

from collections.abc import Mapping
from typing import Final

from daemon.outcomes import Reason

ADVICE: Final[Mapping[Reason, str]] = {
    Reason.SHED: "The engine is slower than the line: lower the rate, or give it a smaller network or crop, or an NPU.",
    Reason.LATE: "The engine is slower than the line: lower the rate, or raise max_age_ms if the ejector allows.",
    Reason.UNDECODABLE: "Check the camera's encoder and cable.",
    Reason.TOO_LARGE: "Crop or bin in the camera, or raise intake.max_frame_bytes.",
    Reason.BAD_GEOMETRY: "Mend the header that the camera sends: shape, dtype, color and bits must fit the payload.",
    Reason.MALFORMED: "Mend what sends this: docs/wire-format.md says what a header holds.",
    Reason.UNKNOWN_RECIPE: "Add the camera to [recipes.NAME] cameras, or the recipe that it names, and reload.",
    Reason.TOO_MANY_CAMERAS: "List the camera in a recipe by its name, raise intake.max_cameras and restart, or find "
    "what sends under changing names.",
    Reason.ENGINE_ERROR: "Run `patchline doctor`; restart the daemon if the device was reset.",
    Reason.SHUTTING_DOWN: "Raise service.drain_s if the line must drain fully.",
    Reason.JOURNAL_UNAVAILABLE: "Make room on the journal's disk, or mend it; the daemon goes on by itself.",
    Reason.MISSING: "Check network, switch and camera; let the camera use the acked door, which loses nothing.",
}
