"""A line controller that can be killed at any moment: it appends each verdict to a file, and goes on from its end."""

import json
import sys
from pathlib import Path

from daemon.client import ClientKeys, VerdictStream


def whole_lines(path: Path) -> list[str]:
    """Return the file's lines but for one that a kill cut short, which is cut off the file too."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return whole.splitlines()


def main(verdicts: str, replay: str, path: Path, *key_files: Path) -> None:
    keys = ClientKeys.read(*key_files) if key_files else None
    with (
        VerdictStream(verdicts, replay, from_offset=len(whole_lines(path)), keys=keys) as stream,
        path.open("a", encoding="utf-8") as file,
    ):
        for verdict in stream:
            file.write(json.dumps([verdict.offset, *verdict.identity, verdict.verdict]) + "\n")
            file.flush()
            print(verdict.offset, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(Path, sys.argv[3:]))
