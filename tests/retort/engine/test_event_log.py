"""The lines that an engine writes of its run."""

import json
import os

from retort.engine.event_log import EventLog


def lines_of(speak):
    """Lines written by an event log that `speak` is given, and the value that `speak` returned."""
    reader, writer = os.pipe()
    given = speak(EventLog(writer))
    os.close(writer)
    with os.fdopen(reader) as written:
        return [json.loads(line) for line in written], given


def test_a_run_says_again_what_was_said_before_it_and_nothing_twice():
    def first(event_log):
        event_log.enter("preparing")
        event_log.enter("distilling")
        event_log.record("metrics", network="student", epoch=1, step=3, values={"loss": 0.1 + 0.2})
        event_log.progress(step=4)
        return event_log.recorded

    before, said = lines_of(first)

    def second(event_log):
        event_log.enter("preparing")
        event_log.replay(said)
        event_log.enter("distilling")
        event_log.record("metrics", network="student", epoch=2, step=6)
        return event_log.recorded

    after, kept = lines_of(second)
    records = [line for line in before if line["line"] == "event"]
    assert [line for line in after if line.get("step") != 6] == [*records, records[1]]
    assert list(kept) == [*said, "distilling/student/metrics/6"]
