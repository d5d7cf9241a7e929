"""The search for two rates of a consumer, which is the device under test of RFC 2544.

The NDR (no-drop rate) is the highest rate at which nothing is lost: RFC 2544's throughput (26.1; RFC 1242, 3.17). The
PDR (partial-drop rate) is the highest rate at which no more is lost than the user tolerates.

Noise must not pass for the consumer's limit:

- A rate counts as too fast only when two trials of it lost packets; one that passes is enough the other way.
- A trial in which the producer was late and packets were lost is void, and is repeated.
- When the search has closed in, the rate just above the answer is tried once more; if it passes, the search goes on.
- The whole search is made several times, and its answers' spread is told.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from zbuf.producer.load.sweep.trial import Trial

Run = Callable[[float | None], Trial]
"""Makes a trial, at a rate in packets per second, or at top speed for None."""

_SLOWEST = 1.0
_LOSSES = 2
"""Trials that must lose packets before a rate is too fast."""
_VOID_TRIALS = 4
"""Void trials of one rate after which the producer's lateness is taken to be the machine's nature."""
_SECOND_THOUGHTS = 3
"""How often the upper end of a search may turn out to be none."""


class _Verdict(Enum):
    PASSED = 1
    LOST = 2
    NOT_OFFERED = 3
    """The producer can't offer this rate."""


@dataclass(frozen=True)
class Answer:
    """What one search has found."""

    trial: Trial
    """The fastest trial that passed."""
    by_producer: bool
    """Whether the producer could offer no more, so that the consumer may be faster."""


@dataclass(frozen=True)
class Try:
    """One search for each of the rates; None if even the slowest rate lost too much, or if it was not searched for."""

    ndr: Answer | None
    pdr: Answer | None = None


def search_rates(run: Run, precision: float, tries: int = 1, tolerated: float | None = None) -> Iterator[Try]:
    """Search for the NDR, and for the PDR if a loss is tolerated; yield each try when it is over.

    The first trial is at top speed. If it loses nothing, the search is over: the consumer is faster than the producer.
    If not, the rate at which the consumer took packets is where to begin.

    Args:
        run: makes one trial.
        precision: how closely a search closes in, from 0 to 1.
        tries: how often to search.
        tolerated: which share of the packets may be lost at the PDR, from 0 to 1.
    """
    top = run(None)
    if top.passed:
        answer = Answer(top, by_producer=True)
        yield Try(answer, None if tolerated is None else answer)
        return
    start = top.taken_rate
    for _ in range(tries):
        ndr = _Search(run, precision, 0.0, top.rate).find(start)
        start = start if ndr is None else ndr.trial.rate
        yield Try(ndr, None if tolerated is None else _partial(run, precision, tolerated, top, start))


def _partial(run: Run, precision: float, tolerated: float, top: Trial, ndr: float) -> Answer | None:
    """Search for the PDR, from where a consumer that takes `ndr` and no more would lose the tolerated share."""
    if top.lost_share <= tolerated:
        return Answer(top, by_producer=True)
    return _Search(run, precision, tolerated, top.rate).find(ndr / (1 - tolerated))


class _Search:
    """A search between the fastest rate that passed and the slowest that lost; steps grow until there are both."""

    def __init__(self, run: Run, precision: float, tolerated: float, ceiling: float) -> None:
        self._run = run
        self._precision = precision
        self._tolerated = tolerated
        self._ceiling = ceiling
        self._best: Trial | None = None
        self._high: float | None = None
        self._step = 2 * precision

    def find(self, start: float) -> Answer | None:
        """Search from a rate that is thought to be close; None if all trials lost too much."""
        second_thoughts = 0
        guess = min(start, self._ceiling * (1 - self._precision))
        while guess >= _SLOWEST:
            verdict = self._judge(guess)
            if verdict is _Verdict.NOT_OFFERED:
                return None if self._best is None else Answer(self._best, by_producer=True)
            if verdict is _Verdict.LOST:
                self._high = guess
            if self._is_close() and (second_thoughts == _SECOND_THOUGHTS or not self._doubtful()):
                break
            second_thoughts += self._is_close()
            guess = self._next()
        return None if self._best is None else Answer(self._best, by_producer=False)

    def _judge(self, rate: float) -> _Verdict:
        losses = void = 0
        lossy = False
        while losses < _LOSSES and void < _VOID_TRIALS:
            trial = self._run(rate)
            if self._note(trial):
                return _Verdict.PASSED
            lossy |= trial.lost_share > self._tolerated
            if trial.is_void(self._precision, self._tolerated):
                void += 1
            else:
                losses += 1
        return _Verdict.LOST if losses or lossy else _Verdict.NOT_OFFERED

    def _note(self, trial: Trial) -> bool:
        """Keep the fastest rate that lost no more than is tolerated; returns whether it was the rate asked for."""
        if trial.lost_share > self._tolerated:
            return False
        if self._best is None or trial.rate > self._best.rate:
            self._best = trial
        return trial.held(self._precision)

    def _is_close(self) -> bool:
        top = self._ceiling if self._high is None else self._high
        return self._best is not None and top <= self._best.rate * (1 + self._precision)

    def _doubtful(self) -> bool:
        """Try the rate that was too fast once more; if it passes, forget that it was."""
        if self._high is None or not self._note(self._run(self._high)):
            return False
        self._high, self._step = None, 2 * self._precision
        return not self._is_close()

    def _next(self) -> float:
        """The middle, or a step up or down if one end is open; each step is twice as large as the one before."""
        if self._best is not None and self._high is not None and self._high > self._best.rate:
            return math.sqrt(self._best.rate * self._high)
        factor = 1 + self._step
        self._step *= 2
        if self._best is None:
            return (self._high or self._ceiling) / factor
        self._high = None
        return min(self._best.rate * factor, math.sqrt(self._best.rate * self._ceiling))
