"""Work on items in threads, a bounded number of them ahead of whoever takes the results.

Photos are read this way while an encoder computes: memory is bounded by the window.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def look_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    window: int | Callable[[], int],
) -> Generator[Result]:
    """`function` of every item, in order, computed by `workers` threads.

    window: how many items are begun or done, but not taken yet; a function is asked before every
    result. `items` is advanced in the caller's thread. What `function` raises is raised when its
    turn comes. Closing the generator (or an error) cancels what has not begun and waits for the
    rest: a caller that may stop early wraps it in `contextlib.closing`.
    """
    results: deque[Future[Result]] = deque()
    todo = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="look-ahead")
    try:
        while True:
            room = (window if isinstance(window, int) else window()) - len(results)
            results.extend(pool.submit(function, item) for item in islice(todo, max(room, 0)))
            if not results:
                return
            yield results.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
