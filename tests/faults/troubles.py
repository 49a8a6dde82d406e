"""What is done to an installation while it works, drawn by a seed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from tests.faults.installation import HOUR, Installation, Worker
from tests.servers import ended

Trouble = Callable[["Troubles"], None]


class Troubles:
    """Does one thing after another to an installation, and counts what was done."""

    def __init__(self, installation: Installation, chance: random.Random) -> None:
        self.installation = installation
        self.chance = chance
        self.done: Counter[str] = Counter()
        self._waking: list[threading.Timer] = []
        offered = {**EVERYWHERE, **(WITH_SERVERS if installation.pair == "full" else WITH_FILES)}
        # Every kind comes once before any comes twice: a short run has all of them too.
        self._names = list(offered)
        self._offered = offered
        self._bag: list[str] = []

    def one(self) -> str:
        """Do the next; gives its name."""
        if not self._bag:
            self._bag = self.chance.sample(self._names, len(self._names))
        name = self._bag.pop()
        self._offered[name](self)
        self.done[name] += 1
        return name

    def calm(self) -> None:
        """Let everybody wake who was suspended, and start what has died."""
        for timer in self._waking:
            timer.join()
        for name in ("lose", "die"):
            (self.installation.control / name).unlink(missing_ok=True)
        self.installation.mend()

    def a_worker(self) -> Worker:
        """One that is awake, if any is."""
        awake = [worker for worker in self.installation.workers if not worker.suspended]
        return self.chance.choice(awake or self.installation.workers)

    def wake_later(self, worker: Worker, seconds: float) -> None:
        timer = threading.Timer(seconds, worker.wake)
        timer.start()
        self._waking.append(timer)

    def lease_seconds(self) -> float:
        return float(str(self.installation.settings["lease_seconds"]))


def kill_worker(troubles: Troubles) -> None:
    ended(troubles.a_worker().process, signal.SIGKILL)


def kill_engine(troubles: Troubles) -> None:
    engines = [pid for worker in troubles.installation.workers for pid in worker.engines()]
    if engines:
        with suppress(ProcessLookupError):  # it may have ended by itself a moment ago
            os.kill(troubles.chance.choice(engines), signal.SIGKILL)


def suspend_worker(troubles: Troubles) -> None:
    """Its lease ends while it sleeps, and its engine goes on."""
    worker = troubles.a_worker()
    if not worker.suspended and worker.process.poll() is None:
        worker.suspend()
        troubles.wake_later(worker, troubles.lease_seconds() * troubles.chance.uniform(1.3, 2))


def stop_worker(troubles: Troubles) -> None:
    """As a deployment does; another one is started once it is gone."""
    worker = troubles.a_worker()
    if not worker.suspended:
        worker.ask_to_stop()


def kill_api(troubles: Troubles) -> None:
    troubles.installation.kill_api()


def api_dies_before_the_wake_up(troubles: Troubles) -> None:
    (troubles.installation.control / "die").touch()


def wake_ups_lost(troubles: Troubles) -> None:
    with troubles.installation.wake_ups_lost():
        time.sleep(troubles.chance.uniform(0.2, 1))


def wake_ups_again(troubles: Troubles) -> None:
    troubles.installation.deliver_again(troubles.chance.randint(2, 20))


def wake_ups_an_hour_later(troubles: Troubles) -> None:
    """The database's clock moves on, so that every lease ends too."""
    troubles.installation.move_clock(HOUR)
    troubles.installation.deliver_again(3)


def restart_redis(troubles: Troubles) -> None:
    assert troubles.installation.redis is not None
    troubles.installation.redis.stop(troubles.chance.choice([signal.SIGTERM, signal.SIGKILL]))
    troubles.installation.redis.start()


def flush_redis(troubles: Troubles) -> None:
    assert troubles.installation.redis is not None
    with troubles.installation.redis.client() as client:
        client.flushall()


def redis_away(troubles: Troubles) -> None:
    assert troubles.installation.redis is not None
    troubles.installation.redis.stop()
    time.sleep(troubles.chance.uniform(1, 3))
    troubles.installation.redis.start()


def restart_database(troubles: Troubles) -> None:
    assert troubles.installation.postgresql is not None
    troubles.installation.postgresql.stop(signal.SIGINT)
    troubles.installation.postgresql.start()


def crash_database(troubles: Troubles) -> None:
    assert troubles.installation.postgresql is not None
    troubles.installation.postgresql.stop(signal.SIGQUIT)
    troubles.installation.postgresql.start()


def database_away(troubles: Troubles) -> None:
    """For less than a lease, or for more."""
    assert troubles.installation.postgresql is not None
    troubles.installation.postgresql.stop(signal.SIGINT)
    time.sleep(troubles.lease_seconds() * troubles.chance.choice([0.5, 1.5]))
    troubles.installation.postgresql.start()


def lock_file(troubles: Troubles) -> None:
    """Somebody else writes to the SQLite file for longer than a lease lasts."""
    file = troubles.installation.folder / "data/retort.db"
    connection = sqlite3.connect(file, isolation_level=None, timeout=30)
    try:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(troubles.lease_seconds() * troubles.chance.uniform(0.5, 1.5))
        connection.execute("ROLLBACK")
    finally:
        connection.close()


EVERYWHERE: dict[str, Trouble] = {
    function.__name__: function
    for function in (
        kill_worker, kill_engine, suspend_worker, stop_worker, kill_api, api_dies_before_the_wake_up, wake_ups_lost,
        wake_ups_again, wake_ups_an_hour_later,
    )
}  # fmt: skip
WITH_SERVERS: dict[str, Trouble] = {
    function.__name__: function
    for function in (restart_redis, flush_redis, redis_away, restart_database, crash_database, database_away)
}
WITH_FILES: dict[str, Trouble] = {lock_file.__name__: lock_file}
