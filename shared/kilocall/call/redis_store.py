"""Rooms in Redis: several signalling servers share them, and one that ends takes none with it.

    kilocall:room:NAME        hash: the room as JSON, and a version that every change makes anew; expires
    kilocall:instances        sorted set: when each signalling server last said that it runs
    kilocall:to:INSTANCE      channel: letters for the connections that one of them holds

A change is made here from the state that was read, and one script stores it and sends its letters if the version is
still the same; otherwise it is made again from the newer state. So joining and pairing are one step for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import Collection
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from kilocall.call.room_store import Change, Changed, Deliver, StoreLost, post
from kilocall.call.rooms import Room
from kilocall.call.signalling_settings import SignallingSettings
from kilocall.proto.errors import BadInput

__all__ = ["RedisStore"]

logger = logging.getLogger(__name__)

INSTANCES: Final = "kilocall:instances"
BEAT_S: Final = 1.0
GONE_AFTER_S: Final = 5.0
"""A signalling server that has said nothing for so long has ended, and with it the connections that it held."""
FORGOTTEN_AFTER_S: Final = 3600
WITHIN_S: Final = 3.0
MOST_TRIES: Final = 50
MOST_CONNECTIONS: Final = 16
"""To Redis; further changes wait for one."""

#: The room, and when each signalling server last ran; time is that of Redis, because clocks of machines differ.
READ: Final = """
local now = redis.call('TIME')
local room = redis.call('HMGET', KEYS[1], 'room', 'version')
return {room[1], room[2], now[1] .. '.' .. string.format('%06d', now[2]),
        redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')}
"""
#: KEYS: room. ARGV: version read, new version, room or nothing, seconds until it expires, then channels and letters.
COMMIT: Final = """
if (redis.call('HGET', KEYS[1], 'version') or '') ~= ARGV[1] then return 0 end
if ARGV[3] == '' then
    redis.call('DEL', KEYS[1])
else
    redis.call('HSET', KEYS[1], 'room', ARGV[3], 'version', ARGV[2])
    redis.call('EXPIRE', KEYS[1], ARGV[4])
end
for i = 5, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end
return 1
"""
BEAT: Final = """
local now = redis.call('TIME')
redis.call('ZADD', KEYS[1], now[1] .. '.' .. string.format('%06d', now[2]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now[1] - ARGV[2])
"""

_room: TypeAdapter[Room] = TypeAdapter(Room)


class RedisStore:
    """The rooms of all signalling servers at one Redis. Raises BadInput for an address that is none."""

    sweep_s = 3.0

    def __init__(self, url: str, settings: SignallingSettings) -> None:
        self.deliver: Deliver = lambda to, text: None
        self.instance = secrets.token_hex(8)
        self.well = False
        #: As long as it is empty or somebody may come back; who holds a connection in it puts that off.
        self._expires_s = round(settings.empty_room_s + settings.come_back_within_s + 10 * self.sweep_s)
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=MOST_CONNECTIONS,
                timeout=WITHIN_S,
                decode_responses=True,
                socket_timeout=WITHIN_S,
                socket_connect_timeout=WITHIN_S,
                # Once, for a connection that broke unnoticed; whoever waits longer is better told so.
                retry=Retry(NoBackoff(), 1),
            )
        except ValueError as error:
            raise BadInput(f"redis is no address: {error}; allowed is redis://HOST:6379/0") from None
        self._redis = Redis.from_pool(pool)
        self._read = self._redis.register_script(READ)
        self._commit = self._redis.register_script(COMMIT)
        self._beat = self._redis.register_script(BEAT)
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Raises BadInput when Redis is not there."""
        try:
            await self._beat(keys=[INSTANCES], args=[self.instance, FORGOTTEN_AFTER_S])
        except (RedisError, OSError) as error:
            raise BadInput(f"redis cannot be used: {error}") from None
        self.well = True
        listens = asyncio.Event()
        self._tasks = [asyncio.create_task(self._listen(listens)), asyncio.create_task(self._keep_beating())]
        await listens.wait()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        with contextlib.suppress(RedisError, OSError):
            await self._redis.zrem(INSTANCES, self.instance)
        with contextlib.suppress(RedisError, OSError):
            await self._redis.aclose()

    async def change(self, name: str, change: Change) -> Changed:
        key = f"kilocall:room:{name}"
        try:
            for _ in range(MOST_TRIES):
                text, version, time_text, beats = await self._read(keys=[key, INSTANCES])
                now = float(time_text)
                room = _decode(text)
                if room is not None:
                    _lose_those_of_ended(room, beats, now)
                changed = change(room, now)
                letters = [
                    part
                    for letter in changed.letters
                    if letter.to
                    for part in (_channel(letter.to), json.dumps([letter.to, post(letter)]))
                ]
                stored = _room.dump_json(changed.room).decode() if changed.room is not None else ""
                if await self._commit(
                    keys=[key], args=[version or "", secrets.token_hex(8), stored, self._expires_s, *letters]
                ):
                    self.well = True
                    return changed
        except (RedisError, OSError) as error:
            self.well = False
            raise StoreLost(f"redis: {type(error).__name__}") from None
        raise StoreLost(f"others have changed the room {MOST_TRIES} times meanwhile")

    def swept_here(self, held: Collection[str]) -> Collection[str]:
        return held

    async def _listen(self, listens: asyncio.Event) -> None:
        """Delivers what is sent to this process's connections; what is sent while Redis is away is lost."""
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=False) as channel:
                    await channel.subscribe(f"kilocall:to:{self.instance}")
                    while True:
                        message = await channel.get_message(timeout=60)
                        if message is not None and message["type"] == "subscribe":
                            listens.set()
                        elif message is not None:
                            self._take(message["data"])
            except (RedisError, OSError) as error:
                self.well = False
                logger.warning("redis is lost", extra={"because": type(error).__name__})
                await asyncio.sleep(BEAT_S)

    def _take(self, data: Any) -> None:
        try:
            to, text = json.loads(data)
        except (ValueError, TypeError):
            logger.warning("a letter makes no sense")
            return
        self.deliver(to, text)

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await self._beat(keys=[INSTANCES], args=[self.instance, FORGOTTEN_AFTER_S])
                self.well = True
            except (RedisError, OSError) as error:
                self.well = False
                logger.warning("redis is lost", extra={"because": type(error).__name__})


def _decode(text: str | None) -> Room | None:
    if text is None:
        return None
    try:
        return _room.validate_json(text)
    except ValidationError:
        logger.warning("a room makes no sense and is forgotten")
        return None


def _lose_those_of_ended(room: Room, beats: list[str], now: float) -> None:
    """Members whose signalling server ended without a word have lost their connection when it last said something."""
    seen = dict(zip(beats[::2], map(float, beats[1::2]), strict=True))
    for member in room.connected:
        seen_at = seen.get(member.connection.partition(".")[0], 0.0)
        if now - seen_at > GONE_AFTER_S:
            member.lost_at = seen_at


def _channel(connection: str) -> str:
    return f"kilocall:to:{connection.partition('.')[0]}"
