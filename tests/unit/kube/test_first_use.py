from __future__ import annotations

import subprocess
import sys

# Threads switch as often as they can, and use kinds that share most of their parts for the first time, all at once.
THREADS = """
import sys, threading
import msgspec
from lightkube.resources import batch_v1, core_v1
from kubenclave.kube.first_use import prepare
sys.setswitchinterval(1e-6)
together = threading.Barrier(4)
def use(kind):
    together.wait()
    prepare(kind)
    msgspec.json.decode(b'{"metadata": {}}', type=kind)
threads = [threading.Thread(target=use, args=(kind,)) for kind in (core_v1.Pod, batch_v1.Job, core_v1.Pod, core_v1.PodTemplate)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_threads_can_use_the_same_kinds_for_the_first_time():
    for _ in range(6):
        assert subprocess.run([sys.executable, "-c", THREADS], capture_output=True, check=False).returncode == 0
