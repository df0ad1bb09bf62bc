"""A child process that does one piece of work for each line it is sent, and answers with its milliseconds."""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


class Child:
    """`python_path`: folders beside the checkout that its imports come from."""

    def __init__(self, command: Sequence[str], python_path: Sequence[Path] = ()) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(str(path) for path in (ROOT, *python_path))},
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, line: str) -> float:
        """Send one line and return the answer. Ends the program when the child has ended."""
        if self._process.stdin is None or self._process.stdout is None:
            raise SystemExit("The child process has no pipes.")
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("A process of the benchmark ended early; its own message stands above.")
        return float(answer)

    def pause(self) -> None:
        """Stop all of the child's threads, so that none of them spins while another contestant has its turn."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.resume()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
