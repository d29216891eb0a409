from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from kilocall.call.signalling import (
    MAX_MESSAGE_BYTES,
    Commit,
    Joined,
    Left,
    Paired,
    Signal,
    Signalling,
    parse_from_client,
    websocket_url,
)
from kilocall.call.signalling_settings import SignallingSettings
from kilocall.proto.errors import BadInput
from links import run
from meeting import OTHER_SECRET, SECRET, Clock, Server, two

TAG = "0f" * 32


def join(room: str = "tea", **more: object) -> str:
    return json.dumps({"type": "join", "room": room, "token": SECRET.token, **more})


def test_commitments_offer_and_answer_are_passed_on_as_they_are() -> None:
    async def check() -> None:
        async with Server() as server:
            first, second, session = await two(server)
            first.commit(session, "a5" * 32)
            assert await second.next() == Commit(session=session, commitment="a5" * 32)
            first.send(session, "offer", "v=0 offer", TAG)
            assert await second.next() == Signal(session=session, kind="offer", sdp="v=0 offer", tag=TAG)
            second.send(session, "answer", "v=0 answer", "")
            assert await first.next() == Signal(session=session, kind="answer", sdp="v=0 answer", tag="")
            await second.close()
            assert isinstance(await first.next(), Left)
            await first.close()

    run(check())


def test_third_party_is_refused_with_a_reason() -> None:
    async def check() -> None:
        async with Server() as server:
            first, second, session = await two(server)
            async with Signalling(server.url, "tea", SECRET) as third:
                with pytest.raises(BadInput, match=r"room tea has two parties already$"):
                    await third.next()
            assert server.rooms["tea"].session == session
            for link in (first, second):
                await link.close()

    run(check())


def test_wrong_secret_is_refused_and_learns_nothing_of_who_is_there() -> None:
    async def check() -> None:
        async with Server() as server, Signalling(server.url, "tea", SECRET) as first:
            await first.next()
            said = await server.said_to(join(token=OTHER_SECRET.token))
            assert said == {
                "type": "refused",
                "code": "token",
                "reason": "room tea exists and has another secret; ask for its link",
            }
            assert len(server.rooms["tea"].members) == 1

    run(check())


def test_signalling_server_keeps_neither_secret_nor_token() -> None:
    async def check() -> None:
        async with Server() as server, Signalling(server.url, "tea", SECRET) as first:
            await first.next()
            room = repr(server.rooms["tea"])
            assert SECRET.text not in room
            assert SECRET.token not in room

    run(check())


def test_room_is_free_for_another_secret_once_all_have_left() -> None:
    async def check() -> None:
        async with Server() as server:
            first, second, _ = await two(server)
            await first.close()
            assert list(server.rooms) == ["tea"]
            await second.close()
            async with Signalling(server.url, "tea", OTHER_SECRET) as other:
                assert isinstance(await other.next(), Joined)

    run(check())


def test_third_gets_full_while_the_owner_of_a_broken_connection_may_come_back() -> None:
    clock = Clock()

    async def check() -> None:
        async with Server(SignallingSettings(come_back_within_s=15, sweep_s=1000), clock) as server:
            first, second, session = await two(server, second_waits_s=60)
            second.abort()
            member = server.rooms["tea"].members[1]
            while member.lost_at is None:  # noqa: ASYNC110  # nothing tells the test
                await asyncio.sleep(0.005)
            clock.now += 5
            async with Signalling(server.url, "tea", SECRET) as third:
                with pytest.raises(BadInput, match="lost its connection and keeps its place for 10 s more"):
                    await third.next()
            second.reconnect()
            assert isinstance(await second.next(), Joined)
            assert server.rooms["tea"].session == session
            second.send(session, "answer", "still here", TAG)
            assert await first.next() == Signal(session=session, kind="answer", sdp="still here", tag=TAG)
            for link in (first, second):
                await link.close()

    run(check())


def test_place_of_who_does_not_come_back_is_free_in_the_end() -> None:
    clock = Clock()

    async def check() -> None:
        async with Server(SignallingSettings(come_back_within_s=15, sweep_s=1000), clock) as server:
            first, second, session = await two(server, second_waits_s=60)
            second.abort()
            while server.rooms["tea"].members[1].lost_at is None:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            clock.now += 16
            await server.signalling.sweep()
            async with Signalling(server.url, "tea", SECRET) as third:
                assert isinstance(await third.next(), Joined)
                paired = await third.next()
                assert isinstance(paired, Paired)
                assert paired.session == session + 1
            for link in (first, second):
                await link.close()

    run(check())


async def restarted(port: int, links: list[Signalling]) -> Server:
    """Another signalling server where one was, which knows nothing; and what the two are told when they come back."""
    server = await Server(port=port).__aenter__()
    for link in links:
        assert isinstance(await link.next(), Joined)
    return server


def test_signalling_server_that_was_restarted_lets_a_connection_that_both_have_alone() -> None:
    async def check() -> None:
        async with Server() as before:
            first, second, session = await two(before)
            first.live = second.live = session
        server = await restarted(before.port, [first, second])
        first.send(session, "offer", "v=0", TAG)
        assert await second.next() == Signal(session=session, kind="offer", sdp="v=0", tag=TAG)
        # And it can be renewed as before.
        second.renew(session)
        renewed = await first.next()
        assert isinstance(renewed, Paired)
        assert renewed.session == session + 1
        for link in (first, second):
            await link.close()
        await server.__aexit__()

    run(check())


@pytest.mark.parametrize("theirs", [None, 7])
def test_signalling_server_that_was_restarted_connects_anew_unless_both_have_the_same_connection(
    theirs: int | None,
) -> None:
    clock = Clock()

    async def check() -> None:
        async with Server() as before:
            first, second, session = await two(before, second_waits_s=60)
            first.live, second.live = session, theirs
        async with Server(SignallingSettings(sweep_s=1000), clock, before.port) as server:
            assert isinstance(await first.next(), Joined)
            clock.now += 16
            await server.signalling.sweep()  # the place that was kept is free
            assert isinstance(await first.next(), Left)
            second.reconnect()
            assert isinstance(await second.next(), Joined)
            for link in (first, second):
                assert isinstance(await link.next(), Paired)
                await link.close()

    run(check())


def test_after_a_restart_the_place_of_a_live_connection_is_kept_for_its_other_end() -> None:
    async def check() -> None:
        async with Server() as before:
            first, second, session = await two(before, second_waits_s=60)
            first.live = second.live = session
        async with Server(port=before.port) as server:
            assert isinstance(await first.next(), Joined)
            async with Signalling(server.url, "tea", SECRET) as third:
                with pytest.raises(BadInput, match="keeps its place for"):
                    await third.next()
            second.reconnect()
            assert isinstance(await second.next(), Joined)
            second.send(session, "answer", "v=0", TAG)
            assert await first.next() == Signal(session=session, kind="answer", sdp="v=0", tag=TAG)
            for link in (first, second):
                await link.close()

    run(check())


def test_lost_connection_comes_back_to_the_same_session() -> None:
    async def check() -> None:
        async with Server() as server:
            first, second, session = await two(server)
            port = server.port
            lost = server.rooms["tea"].members[0]
            server.signalling.outboxes[lost.connection].put_newest(None)  # it closes without a word
            again = await first.next()
            assert isinstance(again, Joined)
            assert (again.member, again.others, server.port) == (lost.token, 1, port)
            second.send(session, "answer", "still here", TAG)
            assert await first.next() == Signal(session=session, kind="answer", sdp="still here", tag=TAG)
            assert server.rooms["tea"].session == session
            for link in (first, second):
                await link.close()

    run(check())


def test_client_comes_back_when_the_signalling_server_was_restarted() -> None:
    async def check() -> None:
        async with Server() as server:
            link = await Signalling(server.url, "tea", SECRET, first_wait_s=0.05, most_wait_s=0.2).__aenter__()
            joined, port = await link.next(), server.port
            assert isinstance(joined, Joined)
        await asyncio.sleep(0.2)
        assert not link.connected
        async with Server(port=port) as server:
            again = await link.next()
            assert isinstance(again, Joined)
            assert again.member == joined.member
            await link.close()

    run(check())


def test_client_that_is_told_to_comes_back_at_once_and_sends_what_waited() -> None:
    async def check() -> None:
        async with Server() as server:
            first, second, session = await two(server)
            assert first.local_address == "127.0.0.1"
            began = asyncio.get_running_loop().time()
            first.reconnect()
            first.renew(session)
            again = await first.next()
            assert isinstance(again, Joined)
            for link in (first, second):
                paired = await link.next()
                assert isinstance(paired, Paired)
                assert paired.session == session + 1
            assert asyncio.get_running_loop().time() - began < 2
            for link in (first, second):
                await link.close()

    run(check())


def test_client_that_waits_to_try_again_can_be_hurried() -> None:
    async def check() -> None:
        async with Server() as server:
            port = server.port
        link = await Signalling(f"http://127.0.0.1:{port}", "tea", SECRET, first_wait_s=30, most_wait_s=60).__aenter__()
        await asyncio.sleep(0.3)
        assert not link.connected
        async with Server(port=port):
            link.reconnect()
            assert isinstance(await link.next(), Joined)
            await link.close()

    run(check())


def test_renewal_begins_one_new_session_for_both() -> None:
    async def check() -> None:
        async with Server() as server:
            first, second, session = await two(server)
            first.renew(session)
            second.renew(session)
            news = [await link.next() for link in (first, second)]
            assert [(n.session, n.offer) for n in news if isinstance(n, Paired)] == [
                (session + 1, True),
                (session + 1, False),
            ]
            first.send(session, "offer", "of the old session", TAG)
            first.send(session + 1, "offer", "of the new", TAG)
            got = await second.next()
            assert isinstance(got, Signal)
            assert got.sdp == "of the new"
            for link in (first, second):
                await link.close()

    run(check())


@pytest.mark.parametrize(
    ("messages", "code", "reason"),
    [
        (["{"], "malformed", "not one known"),
        (["[" * 5000], "malformed", "not one known"),
        (['{"type": "dance"}'], "malformed", "not one known"),
        ([b"\x00\xff"], "malformed", "binary"),
        (["x" * 20_000], "malformed", "not one known"),
        ([json.dumps({"type": "leave"})], "malformed", "first message is leave, not join"),
        ([join(room="a b")], "malformed", "room"),
        ([join(token="short")], "malformed", "token"),
        ([json.dumps({"type": "join", "room": "tea", "version": 1})], "version", "please update the caller"),
        ([join(extra=1)], "malformed", "extra"),
        ([join(version=3)], "version", "please update the meeting point"),
        ([join(version=1)], "version", "please update the caller"),
        ([join(), join()], "malformed", "joined twice"),
        ([join(), '{"type":"signal","session":-1,"kind":"offer","sdp":""}'], "malformed", "session"),
        (
            [join(), json.dumps({"type": "signal", "session": 0, "kind": "offer", "sdp": "x" * 17_000})],
            "malformed",
            "16384",
        ),
        ([join()] + ['{"type":"renew","session":0}'] * 40, "rate", "more than 10 messages a second"),
    ],
)
def test_bad_messages_are_refused_with_a_reason(messages: list[str | bytes], code: str, reason: str) -> None:
    async def check() -> None:
        async with Server() as server:
            said = await server.said_to(*messages)
            assert (said["type"], said["code"]) == ("refused", code)
            assert reason in said["reason"]
            assert f'kilocall_refused_total{{code="{code}"}} 1.0' in server.metrics
            async with Signalling(server.url, "other", SECRET) as link:  # and it goes on
                assert isinstance(await link.next(), Joined)

    run(check())


def test_oversized_message_closes_the_connection_before_it_is_taken() -> None:
    async def check() -> None:
        async with Server() as server, server.raw() as socket:
            with contextlib.suppress(ConnectionClosed):
                await socket.send("x" * (2 * MAX_MESSAGE_BYTES))
            with pytest.raises(ConnectionClosed, match="1009"):
                await socket.recv()
            assert (await server.get("/health")).json() == {"status": "ok"}
            assert server.signalling.connections == 0

    run(check())


def test_silent_party_is_sent_away() -> None:
    async def check() -> None:
        async with Server(SignallingSettings(join_within_s=0.05)) as server:
            said = await server.said_to()
            assert said["reason"] == "no join within 0.05 s"

    run(check())


def test_rooms_and_connections_are_limited() -> None:
    async def check() -> None:
        limits = SignallingSettings(most_rooms=1, most_connections=2)
        async with Server(limits) as server, Signalling(server.url, "tea", SECRET) as first:
            await first.next()
            assert (await server.said_to(join("coffee")))["reason"].startswith("1 rooms exist")
            async with server.raw():
                assert (await server.said_to(join()))["reason"].startswith("2 connections are open")

    run(check())


def test_party_that_does_not_read_loses_its_oldest_messages_only() -> None:
    async def check() -> None:
        async with Server() as server:
            first, second, session = await two(server)
            outbox = server.signalling.outboxes[server.rooms["tea"].members[1].connection]
            for number in range(100):
                outbox.put_newest(Signal(session=session, kind="offer", sdp=str(number)).model_dump_json())
            assert outbox.qsize() == 32
            got = await second.next()
            assert isinstance(got, Signal)
            assert int(got.sdp) >= 68
            for link in (first, second):
                await link.close()

    run(check())


def test_idle_rooms_expire() -> None:
    clock = Clock()
    limits = SignallingSettings(come_back_within_s=15, empty_room_s=60, waiting_room_s=3600, sweep_s=1000)

    async def check() -> None:
        async with Server(limits, clock) as server:
            point = server.signalling
            async with Signalling(server.url, "tea", SECRET, first_wait_s=60) as first:
                await first.next()
                first.abort()
                while server.rooms["tea"].connected:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                clock.now += 16
                await point.sweep()
                assert (len(server.rooms), len(server.rooms["tea"].members)) == (1, 0)
                clock.now += 61
                await point.sweep()
                assert not server.rooms
            async with Signalling(server.url, "coffee", SECRET) as waiting:
                await waiting.next()
                clock.now += 3601
                await point.sweep()
                with pytest.raises(BadInput, match="nobody came"):
                    await waiting.next()
                assert not server.rooms

    run(check())


def test_health_says_only_that_it_is_well_and_metrics_are_not_public() -> None:
    async def check() -> None:
        async with Server() as server:
            first, second, session = await two(server)
            first.send(session, "offer", "x", TAG)
            await second.next()
            assert (await server.get("/health")).json() == {"status": "ok"}
            assert (await server.get("/metrics")).status_code == 404
            for line in (
                "kilocall_rooms 1.0",
                "kilocall_connections 2.0",
                "kilocall_sessions_total 1.0",
                'kilocall_messages_total{type="signal"} 1.0',
            ):
                assert line in server.metrics
            for link in (first, second):
                await link.close()

    run(check())


@given(st.text(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_text_is_refused_or_known(text: str) -> None:
    with contextlib.suppress(ValidationError):
        assert parse_from_client(text)


@pytest.mark.parametrize(
    ("server", "room", "url"),
    [
        ("http://meet.example:8400", "", "ws://meet.example:8400/ws"),
        ("https://meet.example/call/", "tea", "wss://meet.example/call/ws/tea"),
        ("localhost:8400", "a.b~c", "ws://localhost:8400/ws/a.b~c"),
        ("localhost:8400", "..", "ws://localhost:8400/ws"),
    ],
)
def test_address_of_the_websocket(server: str, room: str, url: str) -> None:
    assert websocket_url(server, room) == url


@pytest.mark.parametrize(("path", "taken"), [("", True), ("/tea", True), ("/coffee", False)])
def test_room_of_the_address_is_the_one_that_is_joined(path: str, taken: bool) -> None:
    async def check() -> None:
        async with Server() as server, connect(websocket_url(server.url) + path) as socket:
            await socket.send(join())
            answer = json.loads(await socket.recv())
            assert (answer["type"] == "joined") is taken
            if not taken:
                assert "another than that of the address" in str(answer)

    run(check())


@pytest.mark.parametrize("server", ["ftp://x", "http://", ""])
def test_server_that_is_no_address_is_refused(server: str) -> None:
    with pytest.raises(BadInput, match="allowed is http"):
        websocket_url(server)


@pytest.mark.parametrize("room", ["", "x" * 65, "a/b"])
def test_room_out_of_bounds_is_refused(room: str) -> None:
    with pytest.raises(BadInput, match="allowed are 1 to 64 letters"):
        Signalling("http://localhost", room, SECRET)
