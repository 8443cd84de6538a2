"""The predict view as TVM kernels, post-processing included.

`module` writes Relax from the graph, `cpu` and `gpu` hold what differs by target, `build` makes machine code of it.
"""

import os


def settle_threads() -> None:
    """Tells TVM, whose library reads this when it is loaded, to use all cores and to pin no thread to any.

    Left alone it pins the whole process, torch's threads included, to one core. What the user has set stays.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_NUM_THREADS", str(available))


settle_threads()
