"""Who closes the gate is alone, and nobody waits for ever."""

from __future__ import annotations

import threading
import time

from headstart.deploy.service.gate import Gate


def test_who_closes_it_is_alone_and_all_get_their_turn() -> None:
    gate = Gate()
    inside, most, faults = 0, 0, 0
    lock = threading.Lock()

    def many() -> None:
        nonlocal inside, most
        for _ in range(40):
            with gate.passing():
                with lock:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.0005)
                with lock:
                    inside -= 1

    def alone() -> None:
        nonlocal faults
        for _ in range(10):
            with gate.closed():
                before = inside
                time.sleep(0.001)
                faults += bool(before or inside)

    threads = [threading.Thread(target=many) for _ in range(4)]
    threads += [threading.Thread(target=alone) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert faults == 0
    assert most > 1, "they went one by one: nothing was shown"
