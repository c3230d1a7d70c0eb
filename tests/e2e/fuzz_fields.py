"""Every field of every API with every odd value against the real engine: `make fuzz` runs it, `make test` does not.

Beside each request a neighbour asks for one token, again and again: no value may fail, nor keep the neighbour waiting.
"""

import threading
import time
from dataclasses import dataclass, field

import httpx
import pytest

from tests.conftest import Served
from tests.field_table import combinations

LONGEST_WAIT_S = 2.0
NEIGHBOUR = {"model": "base", "messages": [{"role": "user", "content": "neighbour"}], "max_tokens": 1}


@dataclass
class Neighbour:
    """Somebody else, who always has a request running."""

    served: Served
    now: str = ""
    """What is sent beside it."""
    waits: list[tuple[float, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        headers = {"authorization": f"Bearer {self.served.key}"}
        with httpx.Client(base_url=self.served.url, headers=headers, timeout=120) as http:
            while not self.is_over.wait(0.02):
                beside, began_s = self.now, time.monotonic()
                status = http.post("/v1/chat/completions", json=NEIGHBOUR).status_code
                self.waits.append((time.monotonic() - began_s, f"{beside} … {self.now}"))
                if status != httpx.codes.OK:
                    self.failures.append(f"{status} beside {beside}")


@pytest.mark.timeout(3_600)
def test_no_value_of_any_field_fails_or_keeps_the_neighbour_waiting(served: Served) -> None:
    # The engine compiles its kernel for log-probabilities with the first request for them, once.
    served.http.post("/v1/completions", json={"model": "base", "prompt": "hi", "max_tokens": 1, "logprobs": 1})
    neighbour, failed, count = Neighbour(served), [], 0
    thread = threading.Thread(target=neighbour.run, daemon=True)
    thread.start()
    for path, name, value, body in combinations():
        neighbour.now = f"{path} {name}={value}"
        count += 1
        try:
            answer = served.http.post(path, content=body, headers={"content-type": "application/json"})
        except httpx.HTTPError as error:
            failed.append(f"{neighbour.now}: {error!r}")
            continue
        if answer.status_code >= 500 or '"type":"server_error"' in answer.text:
            failed.append(f"{neighbour.now}: {answer.status_code} {answer.text[-200:]}")
    neighbour.is_over.set()
    thread.join()
    slow = [f"{wait_s:.1f} s beside {beside}" for wait_s, beside in neighbour.waits if wait_s > LONGEST_WAIT_S]
    longest_s = max(neighbour.waits)[0]
    print(f"\n{count} combinations; the neighbour asked {len(neighbour.waits)} times, longest wait {longest_s:.2f} s")
    assert failed + neighbour.failures == []
    assert slow == []
