"""A camera on the push door: python camera_push.py tcp://127.0.0.1:5555 cam0 pictures/*.png"""

import sys
from pathlib import Path

from daemon.client import PushCamera

address, name, *pictures = sys.argv[1:]
with PushCamera(address, name) as camera:
    for picture in pictures:
        camera.send(Path(picture).read_bytes(), part=Path(picture).name)
