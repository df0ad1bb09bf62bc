"""Makes verdicts, and as a process writes them to a journal until it is killed, or until its disk is full.

python -m tests.daemon.journal_writer write PATH SEED
python -m tests.daemon.journal_writer fill PATH
"""

import json
import random
import resource
import sys
import time
from pathlib import Path

from daemon.errors import JournalError
from daemon.journal import Journal
from daemon.messages import Verdict
from daemon.outcomes import Outcome
from daemon.retention import Retention

ROOM_BYTES = 200_000


def verdict(seq: int = 0, **fields: object) -> Verdict:
    values: dict[str, object] = {
        "camera": "left",
        "stream": 7,
        "seq": seq,
        "verdict": Outcome.PASS,
        "captured_ns": 1,
        "received_ns": 1_000_000_000 * (seq % 2**30),
        "recipe": "caps",
        "bank": "20260101T000000-0123abcd",
        "score": 0.5,
        "p_value": 0.25,
        "review_threshold": 1.0,
        "fail_threshold": 2.0,
        **fields,
    }
    return Verdict(**values)  # type: ignore[arg-type]


def write(path: Path, seed: int) -> None:
    """Say after each commit how many verdicts are on disk."""
    draw = random.Random(seed)
    with Journal(path, Retention(max_bytes=2**20)) as journal:
        known = journal.stream("left", 7)
        seq = known.last_seq + 1 if known is not None else 0
        while True:
            count = draw.randint(1, 12)
            journal.append([verdict(seq + i, received_ns=time.time_ns()) for i in range(count)])
            seq += count
            sys.stdout.write(f"{journal.next_offset}\n")
            sys.stdout.flush()
            if draw.random() < 0.2:
                journal.prune(time.time_ns())


def fill(path: Path) -> None:
    """Let no file grow further, write until that is felt, give room again, and tell what happened."""
    with Journal(path) as journal:
        journal.append([verdict(seq) for seq in range(100)])
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (journal.size_bytes + ROOM_BYTES, hard))
        seq = 100
        refusals: list[str] = []
        while len(refusals) < 3:
            try:
                journal.append([verdict(seq + i) for i in range(50)])
            except JournalError as error:
                refusals.append(str(error))
            else:
                seq += 50
        accepted = journal.next_offset
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        journal.check()
        (after,) = journal.append([verdict(seq)])
        sys.stdout.write(json.dumps({"refusals": refusals, "accepted": accepted, "seq": seq, "after": after.offset}))


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        fill(Path(sys.argv[2]))
