"""Every error a user of taskq can meet, as one tree.

    TaskQError
    ├── BrokerUnavailable (ConnectionError)    Redis did not answer before the deadline
    ├── ConfigError (ValueError)               a setting is wrong: where, its value, what is allowed
    ├── AmbiguousApp (RuntimeError)            several TaskQ apps could be meant
    ├── UnknownTask (LookupError)              no task of that name in the app
    ├── InvalidArguments (TypeError)           the call does not fit the task's signature
    ├── NotSerializable (TypeError)            the serializer cannot carry a value
    ├── PayloadTooLarge (ValueError)           a payload or result over the limit
    ├── PayloadError (ValueError)              bytes in Redis that cannot be read
    ├── DuplicateJob (ValueError)              the id belongs to another, unfinished job
    ├── NotReplicated                          enqueued, but too few replicas confirmed it
    ├── JobNotFound (LookupError)              no job of that id
    │   └── ResultExpired                      there was one; its result is no longer kept
    ├── ScheduleNotFound (LookupError)         no schedule of that name
    ├── ResultTimeout (TimeoutError)           the caller stopped waiting; the job goes on
    ├── JobCanceled                            the job was canceled or stopped
    ├── RemoteError                            thrown into a generator task by its caller
    ├── StepFailed                             a step of a durable task failed for good
    ├── StepMismatch                           a durable task no longer does what was recorded of it
    └── JobFailed                              the job ended without a result
        └── TaskTimeout (TimeoutError)         it ran longer than its time limit

Messages say what happened, with which value, what to do about it, and whether
anything was enqueued.
"""

from __future__ import annotations


class TaskQError(Exception):
    """Base of all errors that taskq raises on purpose."""


class BrokerUnavailable(TaskQError, ConnectionError):
    """Redis could not be reached, or did not answer, before the deadline."""


class ConfigError(TaskQError, ValueError):
    """A setting is wrong; the message names its source, its value and what is allowed."""


class AmbiguousApp(TaskQError, RuntimeError):
    """An unbound task was called and more than one `TaskQ` could be meant."""


class UnknownTask(TaskQError, LookupError):
    """The app has no task of that name."""


class InvalidArguments(TaskQError, TypeError):
    """The arguments do not fit the task's signature. Nothing was enqueued."""


class NotSerializable(TaskQError, TypeError):
    """The serializer cannot carry a value; the message names the argument."""


class PayloadTooLarge(TaskQError, ValueError):
    """A payload or a result is larger than the limit (1 MB unless set otherwise)."""


class PayloadError(TaskQError, ValueError):
    """Bytes read from Redis are not a payload that this app accepts."""


class DuplicateJob(TaskQError, ValueError):
    """The job id is taken by another job that has not ended. Nothing was enqueued."""


class NotReplicated(TaskQError):
    """Jobs were enqueued, but fewer replicas confirmed them in time than `replicas=` asks for.

    They wait in their queue and will run; a failover at this moment may lose them.

    Attributes:
        job_ids: ids of the jobs: `queue.handle(id)` gives their handles.
        wanted: replicas that were asked for.
        confirmed: replicas that confirmed.
    """

    def __init__(self, job_ids: list[str], wanted: int, confirmed: int, waited_s: float) -> None:
        """Keep the numbers; the text says what they mean."""
        super().__init__(job_ids, wanted, confirmed, waited_s)
        self.job_ids = job_ids
        self.wanted = wanted
        self.confirmed = confirmed
        self.waited_s = waited_s

    def __str__(self) -> str:
        """What happened, and what it means."""
        shown = ", ".join(self.job_ids[:3]) + (" ..." if len(self.job_ids) > 3 else "")
        return (
            f"{self.confirmed} of {self.wanted} replicas confirmed within {self.waited_s:g} s. "
            f"The jobs were enqueued ({shown}) and will run, unless Redis fails over to a replica "
            "that has not heard of them. Do not enqueue them again: wait for them."
        )


class JobNotFound(TaskQError, LookupError):
    """Redis knows no job of that id."""


class ResultExpired(JobNotFound):
    """The job ended, and its result is no longer (or was never) kept."""


class ScheduleNotFound(TaskQError, LookupError):
    """There is no schedule of that name."""


class ResultTimeout(TaskQError, TimeoutError):
    """The caller's waiting time is over. The job itself goes on."""


class JobCanceled(TaskQError):
    """The job was canceled before it ended by itself."""


class RemoteError(TaskQError):
    """What `handle.throw(exc)` raises in the task where the class of `exc` is no builtin.

    Attributes:
        exc_type: dotted name of that class, as text: it is never imported.
        message: text of the exception.
    """

    def __init__(self, exc_type: str = "", message: str = "") -> None:
        """Keep both."""
        super().__init__(exc_type, message)
        self.exc_type = exc_type
        self.message = message

    def __str__(self) -> str:
        """Both in one line."""
        return f"{self.exc_type}: {self.message}" if self.message else self.exc_type


class StepFailed(TaskQError):
    """A step of a durable task failed for good: raised at its `yield`, also on replay.

    Attributes:
        step: name of the step.
        exc_type: dotted name of the exception's class, as text: it is never imported.
        message: text of the exception.
        attempts: how often it was run.
        exc_types: names of the class and of all that it inherits from.
    """

    def __init__(
        self,
        step: str,
        exc_type: str = "",
        message: str = "",
        attempts: int = 1,
        exc_types: tuple[str, ...] = (),
    ) -> None:
        """Keep the parts; the text names the step and the error."""
        super().__init__(step, exc_type, message, attempts, exc_types)
        self.step = step
        self.exc_type = exc_type
        self.message = message
        self.attempts = attempts
        self.exc_types = exc_types or (exc_type,)

    def was(self, *kinds: type[BaseException] | str) -> bool:
        """Whether what the step raised was one of these: classes, or dotted names of classes."""
        names = [
            kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
            for kind in kinds
        ]
        return any(name in self.exc_types for name in names)

    def __str__(self) -> str:
        """One line for people."""
        tries = f" after {self.attempts} attempts" if self.attempts > 1 else ""
        cause = f"{self.exc_type}: {self.message}" if self.message else self.exc_type
        return f"Step {self.step} failed{tries}: {cause}"


class StepMismatch(TaskQError):
    """A durable task was run again and did not ask for the steps that were recorded."""


class JobFailed(TaskQError):
    """The job ended for good without a result.

    Attributes:
        job_id: id of the job.
        exc_type: dotted name of the exception's class, as text: it is never imported.
        message: text of the exception.
        traceback: formatted traceback of the last execution, or "".
        attempts: number of executions, at least 1.
    """

    def __init__(
        self,
        job_id: str,
        exc_type: str = "",
        message: str = "",
        traceback: str = "",
        attempts: int = 1,
    ) -> None:
        """Keep the parts; the text names the job, the attempts and the error."""
        super().__init__(job_id, exc_type, message, traceback, attempts)
        self.job_id = job_id
        self.exc_type = exc_type
        self.message = message
        self.traceback = traceback
        self.attempts = attempts

    def __str__(self) -> str:
        """One line for people; the traceback of the worker is in `.traceback`."""
        tries = f" after {self.attempts} attempts" if self.attempts > 1 else ""
        cause = f"{self.exc_type}: {self.message}" if self.exc_type else self.message
        return f"Job {self.job_id} failed{tries}: {cause}"


class TaskTimeout(JobFailed, TimeoutError):
    """The job ran longer than its `timeout`."""
