"""Calls: requests to others and answers to theirs; what compiled code leaves to Python, and asyncio."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastcomm._async_port import AsyncPort
from fastcomm._core.calls import CALL_ERROR, CALL_REPLY
from fastcomm._doorbell import Deadline, finish
from fastcomm.errors import (
    DecodeError,
    FastCommError,
    NoRespondersError,
    PeerDiedError,
    RequestTimeoutError,
    ResponderError,
)
from fastcomm.priorities import Priority

if TYPE_CHECKING:
    from fastcomm._core.calls import Call
    from fastcomm._core.message import Message

MAX_ERROR_BYTES = 8000  # of an exception that are sent, less where messages are smaller
NOT_OF_ERROR = 450  # bytes at most of such a message that are not the exception


class CallingPort(AsyncPort):
    """The part of an Agent that asks and answers."""

    # ------------------------------------------------------------------------------------------------ asking

    async def request_async(
        self,
        subject: str,
        data: Any,
        timeout: float | None = 1.0,
        *,
        priority: int = Priority.NORMAL,
        headers: dict[str, Any] | None = None,
    ) -> Message:
        """request() for asyncio: any number of them may wait at the same time.

        Cancelled, the request may have reached others; its answer is counted (`late_responses`) when it
        comes, and nothing else is lost.
        """
        deadline = Deadline(timeout)
        bell = self._bell()
        bell.attach()
        call, delivery = self._open_call(subject, data, priority, headers, timeout)
        try:
            while not self._advance(delivery, timeout) and not delivery.reached:
                if deadline.left() == 0:
                    self._expire(delivery)
                await bell.wait(deadline.left())
                self._housekeep_publishing(self._waits_for_room(delivery))
            if not delivery.reached:
                raise self._no_responders(call)
            with bell.looking(self._look_for_replies) as call.future:
                self._look_for_replies()
                if not call.done:
                    await bell.wait_for(call.future, deadline.left())
                if not call.done:  # a wake-up can be lost
                    self._look_for_replies()
            return self._result(call, timeout)
        finally:
            self._close_call(call)

    def _look_for_replies(self) -> None:
        """For coroutines: the inbox may have something, or a slice is over."""
        try:
            self._drain_inbox()
            self._see_to_calls_when_due()
            while self._inbox._arm_not_empty() and self._drain_inbox():
                pass
        except FastCommError as error:
            for call in self._open_calls():
                if call.future is not None:
                    self._end_call(call, error)

    def _wake_coroutine(self, call: Call) -> None:
        from asyncio import _get_running_loop

        future = call.future
        assert future is not None
        loop = future.get_loop()
        if _get_running_loop() is loop:
            finish(future)
        else:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(finish, future)

    # ------------------------------------------------------------------------------------ what becomes of it

    def _result(self, call: Call, timeout: float | None) -> Message:
        """Of a call that is over: its reply; or raise why there is none."""
        if not call.done:
            raise self._timed_out(call, timeout)
        if isinstance(call.outcome, Exception):
            raise call.outcome
        outcome: Message = call.outcome
        if outcome._is_error:
            raise _error_of(outcome)
        return outcome

    def _no_responders(self, call: Call) -> NoRespondersError:
        count, _ = self._routes_to(call.subject)
        why = (
            f"the full inboxes of all {count} subscribers dropped it, or they are leaving"
            if count
            else "nobody has subscribed to it; wait_for_subscribers() waits for that"
        )
        return NoRespondersError(f"nobody on {self.bus.name!r} got the request {call.subject!r}: {why}")

    def _timed_out(self, call: Call, timeout: float | None) -> RequestTimeoutError:
        alive = 0
        shown = []
        for owner, epoch in call.targets:
            inbox = self.bus._inbox(owner - 1)
            here = self._has_inbox(owner, epoch) and self.bus._segment.alive(owner - 1)
            alive += here
            if owner == self._slot + 1:
                shown.append("this agent itself, whose handlers request() does not call")
            elif here:
                shown.append(f"{self.bus._describe(owner - 1)}, with {inbox.depth} bytes in its inbox")
            else:
                shown.append(f"agent {owner - 1}, which is gone")
        if len(shown) > 4:
            shown[3:] = [f"and {len(shown) - 3} more"]
        if self.depth and self._at_bound():
            shown.append(
                f"{self._max_pending} messages wait here for receive(), an answer may be behind them"
            )
        return RequestTimeoutError(
            f"no answer to {call.subject!r} within {timeout} s; {len(call.targets)} agents have the request, "
            f"{alive} of them are alive: {'; '.join(shown)}",
            reached=len(call.targets),
            alive=alive,
            seconds=timeout or 0.0,
        )

    def _see_to_calls(self) -> None:
        """Once in a slice: end the calls that nobody is left to answer."""
        bus = self.bus
        sent = [call for call in self._open_calls() if call.targets]
        for owner in {owner for call in sent for owner, _ in call.targets}:
            bus._housekeep(waits_for=owner - 1)
        if not any(map(self._gone, sent)) or not bus._segment.try_enter_gate():
            return
        try:
            bus._repair_and_reap("wait")
            gone = [call for call in sent if self._gone(call)]
        finally:
            bus._segment.leave_gate()
        self._drain_inbox()  # what they sent before, and where their requests went
        if self._at_bound():  # an answer may lie behind what can be taken
            return
        for call in gone:
            if self._gone(call):
                self._end_call(call, self._gone_error(call))

    def _gone_error(self, call: Call) -> PeerDiedError:
        segment = self.bus._segment
        slots = [owner - 1 for owner, _ in call.targets]
        here = segment.taken_slots()
        names = [
            f"agent {slot}" if slot in here else repr(self.bus._agent_table.name(slot)) for slot in slots[:4]
        ]
        return PeerDiedError(
            f"{', '.join(names)} had the request {call.subject!r} and was killed or has left without an "
            "answer; whether it was carried out is not known",
            pid=0 if slots[-1] in here else segment.pid_of(slots[-1]),
        )

    # --------------------------------------------------------------------------------------------- answering

    async def _respond_async(
        self,
        message: Message,
        data: Any,
        priority: int | None,
        headers: dict[str, Any] | None,
        timeout: float | None,
        kind: int = CALL_REPLY,
    ) -> bool:
        delivery = self._begin_reply(message, data, priority, headers, timeout, kind)
        if delivery is None:
            return False
        error: BaseException | None = None
        try:
            await self._finish_async(delivery, Deadline(delivery.timeout))
        except BaseException as raised:
            error = raised
        return self._end_reply(message, delivery, error)

    def _respond_error(self, message: Message, error: BaseException | str, timeout: float | None) -> bool:
        return self._respond(message, self._error_parts(error), None, None, timeout, CALL_ERROR)

    async def _respond_error_async(
        self, message: Message, error: BaseException | str, timeout: float | None
    ) -> bool:
        parts = self._error_parts(error)
        return await self._respond_async(message, parts, None, None, timeout, CALL_ERROR)

    def _error_parts(self, error: BaseException | str) -> list[str]:
        """[kind, text, traceback], so short that it passes."""
        kind, text, trace = ("", error, "") if isinstance(error, str) else _described(error)
        room = max(100, min(MAX_ERROR_BYTES, self.bus.max_message - NOT_OF_ERROR))
        parts = [_clipped(kind, room // 4), _clipped(text, room // 2)]
        room -= sum(len(part.encode()) for part in parts)
        return [*parts, _clipped(trace, room, from_end=True)]

    def _answer_failure(self, message: Message, error: Exception, timeout: float | None = None) -> None:
        """A handler raised: tell who asked, if somebody did and has no answer yet."""
        if message._unanswered:
            with suppress(FastCommError):  # it is counted, and told to on_error, in any case
                message.respond_error(error, timeout=timeout)

    async def _answer_failure_async(self, message: Message, error: Exception) -> None:
        if message._unanswered:
            with suppress(FastCommError):
                await message.respond_error_async(error)


def _described(error: BaseException) -> tuple[str, str, str]:
    """Its class, its text, its traceback."""
    from traceback import format_exception

    kind = type(error).__qualname__
    if type(error).__module__ != "builtins":
        kind = f"{type(error).__module__}.{kind}"
    try:
        return kind, str(error), "".join(format_exception(error))
    except Exception as another:  # of its __str__
        return kind, f"its text can't be had: {type(another).__name__}", ""


def _clipped(text: str, nbytes: int, *, from_end: bool = False) -> str:
    encoded = text.encode("utf-8", "replace")
    return (encoded[-nbytes:] if from_end else encoded[:nbytes]).decode("utf-8", "ignore")


def _error_of(reply: Message) -> ResponderError:
    try:
        kind, text, traceback = reply.data
    except (DecodeError, TypeError, ValueError):
        kind, text, traceback = "", "it sent an error that can't be read", ""
    shown = f"{kind}: {text}" if kind else str(text)
    return ResponderError(
        f"{reply.sender!r} answered with an error: {shown}",
        sender=reply.sender,
        kind=kind,
        text=text,
        traceback=traceback,
    )
