"""Who sees to it that every posted job comes to an end: starts drivers, watches them, and says how far they are.

A job runs while its driver lives, and at no other time: a driver that dies is started again, and goes on where it was;
one that dies three times without committing a shard, or that says nothing for two hours, fails its job.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal

from raypurify.containers.lease import Lease, held, writer
from raypurify.errors import RaypurifyError, SinkError
from raypurify.serve.jobs.claims import check_apart, to_replace
from raypurify.serve.jobs.driver import Driver
from raypurify.serve.jobs.refused import Refused
from raypurify.serve.jobs.registry import Ended, Images, Record, Registry, job_id
from raypurify.serve.jobs.request import JobRequest
from raypurify.serve.jobs.roots import registry_of
from raypurify.serve.jobs.tally import Tally, stamp_of_job
from raypurify.serve.jobs.view import JobView, view_of
from raypurify.storage import resolve

TRIES, PAUSE_S, SILENT_S = 3, 5.0, 2 * 3600.0
# A caller's ended jobs beyond these are forgotten, the oldest first; their outputs stay.
_KEPT, _LISTED = 200, 100
_TICK_S, _CLOSING_S = 0.5, 25.0
_UNREACHED = (OSError, ValueError, ImportError)
_LOG = logging.getLogger("ray.serve")


@dataclass
class _Run:
    """What a supervisor knows of a job that has not ended; ``tries`` are drivers that died since a shard was done."""

    tally: Tally
    driver: Driver | None = None
    tries: int = 0
    done: int = 0
    not_before: float = 0.0
    note: str = ""

    @property
    def images(self) -> Images:
        failed = dict(sorted(self.tally.failed.items()))
        return Images(total=self.tally.total, purified=self.tally.written, failed=failed)


@dataclass
class Supervisor:
    """The jobs below the roots of a registry, ``at_once`` of them at work.

    ``start`` begins a driver, told whether the job is to overwrite; ``hindered`` says why a job cannot begin yet, and
    ``hopeless`` why one can never go on with what is in its output. Jobs of others than ``owners``, where these
    are given, are forgotten: nobody could ask for them. What callers ask raises Refused, and comes from any thread;
    ``run`` and ``close`` are called once.
    """

    registry: Registry
    start: Callable[[Record, bool], Driver]
    hindered: Callable[[Record], str | None] = lambda record: None
    hopeless: Callable[[Record], str | None] = lambda record: None
    at_once: int = 2
    owners: Collection[str] | None = None
    silent_s: float = SILENT_S
    ticked: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._holding = ExitStack()
        self._leases: list[Lease] = []
        self._records: dict[str, Record] | None = None
        self._unreached = ""
        self._runs: dict[str, _Run] = {}
        self._lock = threading.RLock()
        self._closing = threading.Event()

    def post(self, owner: str, request: JobRequest, most: int) -> JobView:
        """Take in a job of a caller who may have ``most`` jobs that have not ended; one that is there already, and asks
        for what it asks, is what it is."""
        with self._lock, _reaching():
            request, output = self.registry.admitted(request)
            records = self._known()
            there = records.get(job_id(output.uri))
            if there and there.owner != owner:
                raise Refused(409, "output-taken", "the output belongs to a job of another caller; choose another")
            if there and not there.ended:
                if there.request == request and not there.cancel:
                    return self._view(there)
                what = "is being cancelled" if there.cancel else "runs with other input or options"
                raise Refused(409, "job-exists", f"a job of this output {what}; wait for its end, or cancel it", 10)
            check_apart(output, (record.asked.output for record in records.values()))
            if not most:
                raise Refused(403, "no-jobs", "this token may post no jobs; ask whoever runs the endpoint")
            active = sum(record.owner == owner and not record.ended for record in records.values())
            if active >= most:
                raise Refused(429, "too-many-jobs", f"{active} jobs have not ended, of {most}; wait for one", 30)
            older = to_replace(request)
            id, now = job_id(output.uri), time.time()
            record = Record(id=id, owner=owner, request=request, created=now, replaces=older)
            self._keep(record)
            self._forget_old(records, owner)
            return self._view(record)

    def jobs(self, owner: str) -> list[JobView]:
        """The newest jobs of a caller, the newest first."""
        with self._lock:
            mine = [record for record in self._known().values() if record.owner == owner]
        return [self._view(record) for record in sorted(mine, key=lambda record: -record.created)[:_LISTED]]

    def job(self, owner: str, id: str) -> JobView:
        """One job of a caller."""
        return self._view(self._own(owner, id))

    def cancel(self, owner: str, id: str) -> JobView:
        """End a job, whose output stays and can be gone on with; forget one that has ended."""
        with self._lock, _reaching():
            record = self._own(owner, id)
            if record.ended:
                self.registry.remove(record)
                del self._known()[record.id]
            elif not record.cancel:
                record = record.model_copy(update={"cancel": True})
                self._keep(record)
            return self._view(record)

    def run(self) -> None:
        """See to the jobs until :meth:`close`."""
        while not self._closing.wait(_TICK_S):
            self.tick()

    def tick(self) -> None:
        """Look once at every job that has not ended."""
        self.ticked = time.monotonic()
        try:
            for lease in self._leases:
                lease.check()
            records = self._take_up() if self._records is None else self._records
        except (*_UNREACHED, SinkError) as error:
            if (text := " ".join(str(error).split())) != self._unreached:
                self._unreached = text
                _LOG.warning("jobs cannot be seen to: %s", text)
            self._let_go()
            self._closing.wait(PAUSE_S)
            return
        with self._lock:
            open_jobs = [record for record in records.values() if not record.ended]
        for record in sorted(open_jobs, key=lambda record: record.created):
            run = self._runs.setdefault(record.id, _Run(Tally(record.request.output, record.replaces)))
            try:
                self._see_to(record, run)
            except (*_UNREACHED, RaypurifyError) as error:
                if (note := _told(error)) != run.note:
                    _LOG.warning("job %s waits: %s", record.id, " ".join(str(error).split()))
                run.note = note
            except Exception:
                _LOG.exception("job %s cannot be seen to", record.id)
                run.note = "the log of the server says what is wrong"
            self.ticked = time.monotonic()

    def close(self) -> None:
        """End every driver; jobs that have not ended are gone on with by the next supervisor."""
        self._closing.set()
        self._let_go()

    def _take_up(self) -> dict[str, Record]:
        """Hold the roots against other endpoints, and read what is recorded there. Raises what a store does that is out
        of reach, and SinkError where another endpoint has them."""
        if self._closing.is_set():
            return {}
        if not self._leases:
            with ExitStack() as stack:
                leases = [stack.enter_context(held(registry_of(root))) for root in self.registry.roots]
                self._holding, self._leases = stack.pop_all(), leases
        with self._lock:
            records = self.registry.load()
            for record in [*records.values()]:
                if self.owners is not None and record.owner not in self.owners:
                    self.registry.remove(record)
                    del records[record.id]
                    what = "forgotten" if record.ended else "cancelled and forgotten"
                    text = "job %s of a token that is taken no longer is %s; its output stays, and is for anyone: %s"
                    _LOG.warning(text, record.id, what, record.asked.output)
            self._records = records
        return records

    def _let_go(self) -> None:
        """End every driver, and leave the roots to whoever comes next."""
        with self._lock:
            self._records = None
            drivers = [run.driver for run in self._runs.values() if run.driver]
            self._runs.clear()
        until = time.monotonic() + _CLOSING_S
        while drivers and time.monotonic() < until:
            for driver in drivers:
                driver.end()
            time.sleep(0.1)
            drivers = [driver for driver in drivers if driver.poll() is None]
        for driver in drivers:
            driver.kill()
        self._leases = []
        self._holding.close()

    def _see_to(self, record: Record, run: _Run) -> None:
        if run.driver is None and record.cancel:
            self._end(record, run, "cancelled")
        elif run.driver is None:
            try:
                run.tally.update()
            except SinkError as error:
                # No driver could go on from that record, and it does not mend itself.
                self._end(record, run, "failed", str(error))
            else:
                self._begin(record, run)
        elif (code := run.driver.poll()) is not None:
            self._over(record, run, run.driver, code)
        else:
            if record.cancel or time.monotonic() - run.driver.heard > self.silent_s:
                run.driver.end()
            run.tally.update()
            if run.tally.done > run.done:
                run.tries, run.done = 0, run.tally.done

    def _begin(self, record: Record, run: _Run) -> None:
        if time.monotonic() < run.not_before:
            return
        if sum(other.driver is not None for other in self._runs.values()) >= self.at_once:
            run.note = f"waits for its turn: {self.at_once} jobs are at work"
            return
        try:
            # A link may lead elsewhere by now.
            if self.registry.admitted(record.asked)[0].output != record.request.output:
                raise Refused(403, "forbidden-path", "a link has come into the path of the output; remove it")
        except Refused as error:
            self._end(record, run, "failed", str(error))
            return
        out = resolve(record.request.output)
        other = writer(out)
        why = f"{other} writes this output, and is waited for" if other else self.hindered(record)
        if why:
            run.note = why
            return
        overwrite = record.request.options.overwrite and stamp_of_job(out) in (None, record.replaces)
        if overwrite and record.replaces is None:
            try:
                # It was empty when the job was posted, which may be long ago.
                to_replace(record.request)
            except Refused as error:
                self._end(record, run, "failed", str(error))
                return
        if not overwrite and (why := self.hopeless(record)):
            self._end(record, run, "failed", why)
            return
        with self._lock:
            if self._records is None:
                return
            run.tally = Tally(record.request.output, record.replaces)
            try:
                run.driver, run.note = self.start(record, overwrite), ""
            except Exception as error:  # whatever it is, it may be the same for ever
                _LOG.warning("the process of job %s cannot be started", record.id, exc_info=True)
                self._again(record, run, f"its process cannot be started ({_kind(error)})")

    def _over(self, record: Record, run: _Run, driver: Driver, code: int) -> None:
        """Take note of the end of a driver; exit code 1 is also that of what nobody foresaw."""
        if self._records is None:
            return
        run.driver, run.not_before = None, time.monotonic() + PAUSE_S
        try:
            run.tally.update(at_once=True)
        except SinkError as error:
            self._end(record, run, "cancelled" if record.cancel else "failed", str(error))
            return
        if not driver.finished and not record.cancel:
            _LOG.warning("job %s: its process ended (exit %d), and said at last: %s", record.id, code, driver.last)
        waits = code == 2 and (writer(resolve(record.request.output)) or self.hindered(record))
        if code in (0, 1) and driver.finished:
            self._end(record, run, "done", driver.said if driver.said.startswith("left out") else "")
        elif record.cancel:
            self._end(record, run, "cancelled")
        elif code == 2 and not waits:
            said = self.hopeless(record) or driver.said or "its process refused it; the log of the server says why"
            self._end(record, run, "failed", said)
        elif code == 2:
            run.note = f"its process ended and is started again: {driver.said}"[:500]
        else:
            said = driver.said or "the log of the server says how"
            self._again(record, run, f"its process died (exit {code}): {said}")

    def _again(self, record: Record, run: _Run, why: str) -> None:
        """Count a try that came to nothing, which is the last one or has another after a while."""
        run.tries += 1
        if run.tries >= TRIES:
            self._end(record, run, "failed", f"{why}; that was the last of {TRIES} tries")
        else:
            run.not_before = time.monotonic() + PAUSE_S * run.tries
            run.note = f"{why}; it is tried again"[:500]

    def _end(self, record: Record, run: _Run, state: Literal["done", "failed", "cancelled"], message: str = "") -> None:
        ended = Ended(state=state, at=time.time(), message=message[:1000], images=run.images)
        with self._lock:
            self._keep(record.model_copy(update={"ended": ended}))
            self._runs.pop(record.id, None)

    def _keep(self, record: Record) -> None:
        """Record a job in its file, and then here."""
        self.registry.write(record)
        self._known()[record.id] = record

    def _known(self) -> dict[str, Record]:
        if self._records is None:
            why = "the log of the server says why" if self._unreached else "they are being read"
            raise Refused(503, "unavailable", f"the records of jobs are not there yet; {why}; ask again later", PAUSE_S)
        return self._records

    def _own(self, owner: str, id: str) -> Record:
        record = self._known().get(id)
        if record is None or record.owner != owner:
            raise Refused(404, "no-such-job", "no job of yours has this id; GET /v1/jobs lists them")
        return record

    def _forget_old(self, records: dict[str, Record], owner: str) -> None:
        mine = (record for record in records.values() if record.ended and record.owner == owner)
        ended = sorted(mine, key=lambda record: record.created)
        for record in ended[: max(0, len(ended) - _KEPT)]:
            self.registry.remove(record)
            del records[record.id]

    def _view(self, record: Record) -> JobView:
        run = self._runs.get(record.id)
        if run is None:
            return view_of(record, Images(), False, "")
        # It may end meanwhile.
        driver = run.driver
        if driver is None:
            return view_of(record, run.images, False, run.note)
        return view_of(record, run.images, True, driver.said or run.note, run.tally.rate, run.tally.eta_s)


def _kind(error: Exception) -> str:
    """What an error is, without the paths and addresses of this machine that its text may hold."""
    return getattr(error, "strerror", None) or type(error).__name__


def _told(error: Exception) -> str:
    """What a caller may read of an error that its job met."""
    return " ".join(str(error).split())[:500] if isinstance(error, RaypurifyError) else f"it waits: {_kind(error)}"


@contextmanager
def _reaching() -> Iterator[None]:
    """A block in which a store that is out of reach is a refusal."""
    try:
        yield
    except RaypurifyError:
        raise
    except _UNREACHED as error:
        text = f"the job roots cannot be read or written now ({_kind(error)})"
        raise Refused(503, "unavailable", f"{text}; ask again later", PAUSE_S) from error
