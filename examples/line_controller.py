"""A line controller: python line_controller.py tcp://127.0.0.1:5557 tcp://127.0.0.1:5558 position.txt

Everything but `pass` means "don't ship". The position is kept on disk, so a restarted controller misses no verdict.
"""

import sys
from pathlib import Path

from daemon.client import Outcome, VerdictStream

verdicts, replay, position = sys.argv[1], sys.argv[2], Path(sys.argv[3])
offset = int(position.read_text()) if position.exists() else None
with VerdictStream(verdicts, replay, from_offset=offset) as stream:
    for verdict in stream:
        action = "ship" if verdict.verdict is Outcome.PASS else f"EJECT ({verdict.reason or verdict.verdict})"
        print(f"{verdict.camera} {verdict.seq} {verdict.part}: {action}", flush=True)
        position.with_suffix(".new").write_text(str(stream.position))
        position.with_suffix(".new").replace(position)  # at once, so that a kill leaves the old position or the new
