"""The whole way to a connection: signalling server, signalling, two peers."""

from __future__ import annotations

import asyncio
import time

from kilocall.call.signalling import Commit, Paired, Signal, Signalling
from kilocall.proto.trust import Handshake
from kilocall.runtime.peer import Peer
from kilocall.runtime.peer_settings import PeerSettings
from links import lose_all, run
from meeting import SECRET, Server, two

SETTINGS = PeerSettings(loopback="only", vanished_after_s=0.5)


async def meet(link: Signalling, paired: Paired) -> Peer:
    """Makes the connection of a session, as a node would."""
    peer, handshake = Peer(SETTINGS), Handshake(SECRET.key, "tea", offers=paired.offer)
    link.commit(paired.session, handshake.commitment)
    commitment = await link.next()
    assert isinstance(commitment, Commit)
    handshake.meet(commitment.commitment)
    if paired.offer:
        offer = await peer.offer()
        link.send(paired.session, "offer", offer, handshake.seal(offer))
    description = await link.next()
    assert isinstance(description, Signal)
    assert description.session == paired.session
    handshake.check(description.sdp, description.tag)
    if paired.offer:
        await peer.accept(description.sdp)
    else:
        answer = await peer.answer(description.sdp)
        link.send(paired.session, "answer", answer, handshake.seal(answer))
    assert await peer.wait_open(), peer.closed_because
    return peer


def test_two_parties_connect_and_connect_again_after_the_link_broke() -> None:
    async def check() -> None:
        async with Server() as server:
            links = await two(server)
            first_link, second_link, session = links
            started = time.monotonic()
            first, second = await asyncio.gather(
                meet(first_link, Paired(session=session, offer=True)),
                meet(second_link, Paired(session=session, offer=False)),
            )
            assert time.monotonic() - started < 1.5
            lose_all(first)
            lose_all(second)
            for peer, link in ((first, first_link), (second, second_link)):
                assert "nothing has arrived" in await peer.wait_closed()
                link.renew(session)
            broken = time.monotonic()
            news = [await link.next() for link in (first_link, second_link)]
            fresh = [paired for paired in news if isinstance(paired, Paired)]
            assert [paired.session for paired in fresh] == [session + 1] * 2
            again, back = await asyncio.gather(meet(first_link, fresh[0]), meet(second_link, fresh[1]))
            assert time.monotonic() - broken < 5
            assert again.send_motion(b"motion")
            message = await back.motion.get()
            assert message is not None
            assert message.data == b"motion"
            for peer in (first, second, again, back):
                await peer.close()
            for link in (first_link, second_link):
                await link.close()

    run(check())
