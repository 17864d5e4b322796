"""What the batcher does with arrivals that are known: the real one, in time that is not."""

import asyncio
import math
import selectors
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from app.serving.batcher import MicroBatcher
from app.serving.timings import Batch
from documentation.drawing import Picture

STREAMS = 2
LARGEST = 4
WIDTH, LEFT = 760, 100  # pixels
SCALE = 7  # of a millisecond
ROW = 19  # of a waiting item


def seconds_of(size: int) -> float:
    """A batch of one takes 12 ms, every further image 4 ms."""
    return 0.008 + 0.004 * size


@dataclass
class Story:
    """What became of each item, by its number from 1; times in milliseconds."""

    arrivals: Sequence[float]
    batches: list[tuple[Batch, Sequence[int]]] = field(default_factory=list)
    lost: dict[int, float] = field(default_factory=dict)

    def left_queue(self, item: int) -> float:
        """When an item was taken by a stream, gave up or expired."""
        taken = [batch.started * 1e3 for batch, items in self.batches if item in items]
        return taken[0] if taken else self.lost[item]


def tell(
    arrivals: Sequence[float],
    *,
    delay: float = 0,
    leaving: Mapping[int, float] | None = None,
) -> Story:
    """Submit items at ``arrivals`` to a batcher with two streams and batches of at most four.

    Args:
        delay: ``max_batch_delay``.
        leaving: milliseconds until some items' callers go away, or their deadlines pass.
    """
    story = Story(arrivals)
    loop = VirtualLoop()
    batcher: MicroBatcher[int, int] = MicroBatcher(
        lambda items: items,
        [VirtualStream(loop)] * STREAMS,
        max_batch_size=LARGEST,
        max_queue_size=100,
        max_batch_delay=delay / 1e3,
        on_batch=lambda batch, items: story.batches.append((batch, items)),
        clock=loop.time,
    )

    async def call(item: int, arrival: float) -> None:
        await asyncio.sleep(arrival / 1e3)
        try:
            async with asyncio.timeout((leaving or {}).get(item, math.inf) / 1e3):
                await batcher.submit(item)
        except TimeoutError:
            story.lost[item] = loop.time() * 1e3

    async def run() -> None:
        batcher.start()
        await asyncio.gather(*(call(i, arrival) for i, arrival in enumerate(arrivals, 1)))
        await batcher.close()

    loop.run_until_complete(run())
    loop.close()
    return story


def draw(story: Story, title: str) -> str:
    """The items that wait, and under them the streams."""
    ends = {item: story.left_queue(item) for item in range(1, len(story.arrivals) + 1)}
    rows: list[float] = []  # when each row is free again
    places = {}
    for item, arrival in enumerate(story.arrivals, 1):
        row = next((i for i, free in enumerate(rows) if free <= arrival), len(rows))
        rows[row : row + 1] = [max(ends[item], arrival) + 4]
        places[item] = row
    streams = 22 + ROW * len(rows)
    last = max((batch.started + batch.seconds) * 1e3 for batch, _ in story.batches)
    picture = Picture(WIDTH, streams + 46 * STREAMS + 36, title)
    picture.text(LEFT - 16, 21, "waiting", "bold", "end")
    for item, arrival in enumerate(story.arrivals, 1):
        y = 16 + ROW * places[item]
        x, end = LEFT + SCALE * arrival, LEFT + SCALE * ends[item]
        picture.line(x, y, max(x, end), y, "thick" if item not in story.lost else "hot dash")
        picture.circle(x, y, 8.5, "deep" if item not in story.lost else "warm")
        picture.text(x, y + 4, str(item), "number")
        if item in story.lost:
            picture.text(end + 5, y + 5, "✕", "bold", "start")
    for stream in range(STREAMS):
        y = streams + 46 * stream
        picture.text(LEFT - 16, y + 24, f"stream {stream + 1}", "bold", "end")
        picture.line(LEFT, y + 34, LEFT + SCALE * last, y + 34, "dash")
    for batch, items in story.batches:
        x, width = LEFT + SCALE * 1e3 * batch.started, SCALE * 1e3 * batch.seconds
        y = streams + 46 * batch.thread
        picture.rect(x, y + 4, width - 2, 30, "one" if len(items) == 1 else "two")
        picture.text(x + width / 2, y + 24, " ".join(map(str, items)))
    axis = streams + 46 * STREAMS
    for tick in range(0, math.ceil(last) + 1, 10):
        x = LEFT + SCALE * tick
        picture.line(x, axis, x, axis + 5)
        picture.text(x, axis + 20, f"{tick}" + (" ms" if tick == 0 else ""), "soft")
    return picture.svg()


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes at once: sleeping until something is due is all it does."""

    def __init__(self) -> None:
        self._skipper = _Skipper()
        super().__init__(self._skipper)

    def time(self) -> float:
        return self._skipper.now


class _Skipper(selectors.DefaultSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.now += timeout or 0.0
        return []


class VirtualStream(Executor):
    """Takes as long for a batch as `seconds_of` says."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def submit(self, run: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self._loop.call_later(seconds_of(len(args[0])), lambda: future.set_result(run(*args)))
        return future
