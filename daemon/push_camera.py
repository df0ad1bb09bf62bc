"""`PushCamera`: the plain client of the push door, with delivery as good as ZeroMQ's buffers."""

import os
from types import TracebackType
from typing import Final, Self

import zmq

from daemon.errors import NotRunningError
from daemon.frame_fields import Pixels, check_sender, frame_bytes, header_packer
from daemon.keys import ClientKeys
from daemon.sockets import ZmqContext, connect, open_socket

# Frames that may wait in this process for the daemon to take them.
SEND_HIGH_WATER_MARK: Final = 8


class PushCamera:
    """Pushes frames and waits for nothing. `stream` is drawn at random by default; not thread-safe.

    `timeout_s`: how long `send` may wait while the daemon takes no frames. `keys`: for a daemon that asks for them.
    """

    def __init__(
        self,
        address: str,
        camera: str,
        *,
        stream: int | None = None,
        timeout_s: float = 10.0,
        keys: ClientKeys | None = None,
    ) -> None:
        self.address = address
        self.camera = camera
        self.stream = stream if stream is not None else int.from_bytes(os.urandom(8), "big")
        check_sender(camera, self.stream)
        self._seq = 0
        self._context: ZmqContext = zmq.Context()
        self._socket = open_socket(self._context, zmq.PUSH, sndhwm=SEND_HIGH_WATER_MARK, sndtimeo=int(timeout_s * 1000))
        try:
            connect(self._socket, address, keys)
        except NotRunningError:
            self._context.term()
            raise

    def send(self, payload: Pixels, **fields: object) -> int:
        """Push one frame and return its seq; payload and fields as in `FrameSender.send`.

        Raises MessageError for fields that break the wire format, NotRunningError when no daemon takes the frame.
        """
        header = header_packer(self.camera, self.stream, payload, fields)(self._seq)
        try:
            self._socket.send_multipart([header, frame_bytes(payload)])
        except zmq.Again as error:
            raise NotRunningError(
                f"No daemon takes frames at {self.address}. Is it running? If it asks for keys, is "
                "this camera's on its list?"
            ) from error
        self._seq += 1
        return self._seq - 1

    def close(self, timeout_s: float = 2.0) -> None:
        """Close; frames still waiting here have `timeout_s` to leave."""
        self._socket.close(linger=int(timeout_s * 1000))
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, _error: object, _trace: TracebackType | None) -> None:
        self.close()
