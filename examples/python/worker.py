"""A program in Python that works while its Pod leads, in both ways there are.

Beside a sidecar (`effect-kubernetes-leader-election serve`; deployment-sidecar.yaml), it asks who leads:

    LEADER_ELECTION_URL=http://127.0.0.1:4040 python3 worker.py

Under `run` (deployment-run.yaml) it is started when its Pod leads, and ended when that is over:

    effect-kubernetes-leader-election run --name invoices -- python3 worker.py

It shows

- that the deadline is what counts: the work stops when it is over, whatever the connection to the sidecar does;
- POST /release at the end, so that another Pod leads within milliseconds;
- the fencing token, which goes along with everything that only a leader may do.

It needs Python 3.9, and nothing else.
"""

import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request

INTERVAL = float(os.environ.get("INTERVAL", "1"))
stopping = threading.Event()


def work(token: str) -> None:
    """One piece of work, short against the deadline. Here: give the token to what can refuse a smaller one."""
    print(f"sends invoices with token {token}", flush=True)


class Leadership:
    """What the sidecar says, as far as one may rely on it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = threading.Lock()
        self._token = None
        self._valid_until = 0.0
        self.woken = threading.Event()

    def token(self):
        """The fencing token while this Pod leads, else None.

        validUntilMonotonic is a time on CLOCK_MONOTONIC, which time.monotonic() reads too: it does not matter how late
        an event arrived, or whether any arrives any more.
        """
        with self._lock:
            return self._token if time.monotonic() < self._valid_until else None

    def _learn(self, answer: dict) -> None:
        with self._lock:
            if answer["leading"]:
                self._token = answer["fencingToken"]
                self._valid_until = max(self._valid_until, answer["validUntilMonotonic"])
            else:
                self._token = None
                self._valid_until = 0.0
        self.woken.set()

    def follow(self) -> None:
        """Reads the stream of events for ever. Without it, the deadline runs out by itself."""
        while not stopping.is_set():
            try:
                # An event comes each half renewInterval: a stream that is silent for longer is dead.
                with urllib.request.urlopen(f"{self.url}/changes", timeout=10) as stream:
                    for line in stream:
                        if line.startswith(b"data: "):
                            self._learn(json.loads(line[len(b"data: "):]))
            except (OSError, ValueError):
                pass
            stopping.wait(0.5)

    def release(self) -> None:
        """Says that the work has stopped: the sidecar need not wait for the deadline."""
        with self._lock:
            self._token = None
        try:
            urllib.request.urlopen(urllib.request.Request(f"{self.url}/release", method="POST"), timeout=2).close()
        except (OSError, urllib.error.URLError):
            pass


def beside_sidecar(url: str) -> None:
    leadership = Leadership(url)
    threading.Thread(target=leadership.follow, daemon=True).start()
    while not stopping.is_set():
        leadership.woken.clear()
        token = leadership.token()
        if token is None:
            leadership.woken.wait(0.5)
        else:
            work(token)
            stopping.wait(INTERVAL)
    leadership.release()


def under_run(token: str) -> None:
    """`run` has started this process because its Pod leads, and ends it with SIGTERM when that is over."""
    while not stopping.is_set():
        work(token)
        stopping.wait(INTERVAL)


def main() -> None:
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stopping.set())
    url = os.environ.get("LEADER_ELECTION_URL")
    token = os.environ.get("LEADER_ELECTION_FENCING_TOKEN")
    if url is not None:
        beside_sidecar(url)
    elif token is not None:
        under_run(token)
    else:
        sys.exit("set LEADER_ELECTION_URL, or start this with effect-kubernetes-leader-election run -- python3 worker.py")
    print("has stopped", flush=True)


if __name__ == "__main__":
    main()
