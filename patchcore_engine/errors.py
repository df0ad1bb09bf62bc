"""Every error the engine raises on purpose.

    PatchcoreError
    ├── DataError                  pictures or folders that can't be used
    │   ├── NoPicturesError
    │   ├── UndecodableImageError
    │   └── ImageTooLargeError
    ├── GeometryError              a frame or setting whose shape doesn't fit
    ├── CalibrationError           too few good parts
    ├── MemoryLimitError           a fit that can't be done within its memory limit
    ├── WeightsError
    │   ├── WeightsFormatError     a weights file that can't be read, or whose tensors don't fit
    │   ├── WeightsMissingError
    │   ├── WeightsDownloadError
    │   └── DigestMismatchError
    ├── DeviceError                no such device, or a setting the device can't do
    ├── ExportError
    ├── ParityError                another engine that deviates from the reference
    └── BankError
        ├── BankMissingError
        ├── BankDamagedError
        ├── BankMismatchError      made with other weights, geometry or embedding
        └── BankWriteError

Each message is one or two plain sentences that say what to do.
"""


class PatchcoreError(Exception):
    """Base of all errors raised by patchcore_engine on purpose."""


class DataError(PatchcoreError):
    """Raised when pictures or folders can't be used."""


class NoPicturesError(DataError):
    """Raised when a folder is missing or holds no pictures."""


class UndecodableImageError(DataError):
    """Raised when bytes or a file can't be decoded as a picture."""


class ImageTooLargeError(DataError):
    """Raised when a picture holds more pixels than the limit."""


class GeometryError(PatchcoreError):
    """Raised when a frame's shape or dtype, or a geometry setting, doesn't fit."""


class CalibrationError(PatchcoreError):
    """Raised when there are too few good parts to calibrate from."""


class MemoryLimitError(PatchcoreError):
    """Raised when a fit can't be done within its memory limit."""


class WeightsError(PatchcoreError):
    """Base of all errors about backbone weights."""


class WeightsFormatError(WeightsError):
    """Raised when a weights file can't be read or its tensors don't fit the backbone."""


class WeightsMissingError(WeightsError):
    """Raised when no weights are found for a backbone."""


class WeightsDownloadError(WeightsError):
    """Raised when a download fails; what has arrived is kept and resumed."""


class DigestMismatchError(WeightsError):
    """Raised when a file's digest isn't the published one."""


class DeviceError(PatchcoreError):
    """Raised when a device is absent or can't do what a setting asks."""


class ExportError(PatchcoreError):
    """Raised when an exported file can't be made or deviates from the network."""


class ParityError(PatchcoreError):
    """Raised when an engine's results deviate from the reference engine's, or can't be compared with them."""


class BankError(PatchcoreError):
    """Base of all errors about memory banks."""


class BankMissingError(BankError):
    """Raised when no bank is found at a path, or a recipe has no active version."""


class BankDamagedError(BankError):
    """Raised when a bank's files don't match its manifest."""


class BankMismatchError(BankError):
    """Raised when a bank was made with other weights, geometry or embedding than offered."""


class BankWriteError(BankError):
    """Raised when a bank can't be written, for example because the disk is full."""
