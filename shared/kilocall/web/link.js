// Keeps one party connected: its place in the room, and a Peer that is made anew whenever the way has changed.
//
// As `call/link.py`. A browser does not show a page the computer's addresses; in their place it tells when the computer
// comes online, and when ICE gets no answers any more.

import { BadInput, BadPacket, NotProven } from "./errors.js";
import { Peer } from "./peer.js";
import { Signalling, isRoom, noRoom } from "./signalling.js";
import { Handshake, LinkSecret } from "./trust.js";

/** @typedef {import("./peer.js").Message} Message */
/** @typedef {import("./peer.js").PeerSettings} PeerSettings */
/** @typedef {import("./signalling.js").Commit} Commit */
/** @typedef {import("./signalling.js").Signal} Signal */
/** @typedef {import("./signalling.js").Joined} Joined */
/** @typedef {import("./signalling.js").Paired} Paired */

const SIGNAL_WITHIN_MS = 10_000;
const RENEW_EVERY_MS = 1000;
const BYE_MS = 150;
/** A peer whose motion has stopped for so long while motion is expected is tried to be reached another way. */
const SILENT_MS = 3500;
/** A signalling server that has not answered to so many wishes for another connection is connected to anew. */
const UNHEARD_RENEWALS = 8;

/** Where two meet. */
export class RoomAddress {
  /**
   * @param {string} server
   * @param {string} room
   * @param {LinkSecret} secret
   */
  constructor(server, room, secret) {
    this.server = server;
    this.room = room;
    this.secret = secret;
  }

  /** What the other side opens, or gives to --room. */
  get link() {
    return `${this.server.replace(/\/+$/, "")}/${this.room}#${this.secret.text}`;
  }
}

/**
 * A whole link, `https://server/NAME#secret`; a secret is made where none is given. Throws BadInput.
 * @param {string} link
 */
export function findRoom(link) {
  const parts = URL.canParse(link) ? new URL(link) : null;
  if (parts === null || !["http:", "https:"].includes(parts.protocol) || !parts.host) {
    throw new BadInput(`room is '${link.split("#")[0].slice(0, 118)}'; allowed: http(s)://server/NAME#secret`);
  }
  const name = parts.pathname.replace(/^\/+|\/+$/g, "");
  if (!isRoom(name)) throw noRoom(name);
  const secret = parts.hash.slice(1);
  return new RoomAddress(parts.origin, name, secret ? new LinkSecret(secret) : LinkSecret.make());
}

/**
 * What the link tells.
 * @typedef {object} LinkEvents
 * @property {(address: RoomAddress, others: number) => void} joined in the room; `others` are there already
 * @property {() => void} paired two are in the room: a connection is being made
 * @property {(peer: Peer, handshake: Handshake) => void} opened messages can be sent; `handshake` is how the connection was made
 * @property {(message: Message) => void} motion
 * @property {(message: Message) => void} control
 * @property {(reason: string) => void} closed the connection is gone; another follows unless `wantsAnother` says no
 * @property {() => boolean} wantsAnother
 * @property {() => boolean} expectsMotion whether silence means that something is wrong
 * @property {() => void} left the other side has left the room
 * @property {() => MediaStreamTrack | null} audio what the next connection sends as speech
 * @property {(track: MediaStreamTrack) => void} [heard] the other side's speech
 * @property {() => void} [leaving] the page is being closed: what is sent now is the last
 */

/** What an attempt that another has taken the place of is ended with. */
class Cancelled extends Error {}

/**
 * Holds what has come until it is taken, at most two of it: more than are needed are dropped.
 * @template Item
 */
class Mailbox {
  /** @type {Item[]} */
  #items = [];
  /** @type {((item: Item) => void) | null} */
  #taker = null;

  /** @param {Item} item */
  put(item) {
    const taker = this.#taker;
    this.#taker = null;
    if (taker !== null) taker(item);
    else if (this.#items.length < 2) this.#items.push(item);
  }

  /** @returns {Promise<Item>} */
  async take() {
    const item = this.#items.shift();
    return item === undefined ? new Promise((resolve) => { this.#taker = resolve; }) : item;
  }
}

/** The making of one connection, and what became of it. */
class Attempt {
  /** @type {Mailbox<Commit>} */
  commits = new Mailbox();
  /** @type {Mailbox<Signal>} */
  signals = new Mailbox();
  /** @type {Peer | null} */
  peer = null;
  /** Whether nothing more will come of it. */
  done = false;
  /** @type {() => void} */
  cancel = () => {};
  /** @type {Promise<never>} rejected when another attempt begins */
  cancelled;

  /**
   * @param {number} session
   * @param {boolean} offer
   */
  constructor(session, offer) {
    this.session = session;
    this.offer = offer;
    this.cancelled = new Promise((_, reject) => { this.cancel = () => reject(new Cancelled()); });
    this.cancelled.catch(() => {}); // nobody need be waiting for it
  }

  /** @param {Commit | Signal} message one of the other side's */
  take(message) {
    if (message.type === "commit") this.commits.put(message);
    else this.signals.put(message);
  }
}

/** Runs until it is closed or refused. `peer` is the open connection, if there is one. */
export class Link {
  #events;
  #meeting;
  /** @type {Attempt | null} */
  #attempt = null;
  /** @type {RTCIceServer[]} the signalling server's TURN servers, as of the last joining */
  #relays = [];
  #ending = false;
  #unheard = 0;

  /**
   * @param {RoomAddress} address
   * @param {Partial<PeerSettings>} settings
   * @param {LinkEvents} events
   */
  constructor(address, settings, events) {
    this.address = address;
    this.settings = settings;
    /** @type {Peer | null} */
    this.peer = null;
    /** How many have been opened. */
    this.connections = 0;
    /** Descriptions that were refused, because they may be of somebody who is not the other side. */
    this.notProven = 0;
    this.#events = events;
    this.#meeting = new Signalling(address.server, address.room, address.secret);
  }

  /** Why the signalling server cannot be reached, for people; nothing while it can. */
  get trouble() {
    return this.#meeting.trouble;
  }

  /** Throws BadInput when the signalling server refuses, or somebody may be in between. */
  async run() {
    const meeting = this.#meeting;
    const renewing = setInterval(() => this.#renewWhenLost(), RENEW_EVERY_MS);
    const online = () => this.#cameOnline();
    const hidden = () => this.#leaveAtOnce();
    globalThis.addEventListener("online", online);
    globalThis.addEventListener("pagehide", hidden);
    meeting.start();
    try {
      while (!this.#ending) {
        const event = await meeting.next();
        if (event === null) break;
        this.#unheard = 0;
        if (event.type === "joined") {
          this.#takeRelays(event);
          this.#events.joined(this.address, event.others);
        } else if (event.type === "paired") {
          this.#begin(event);
        } else if (event.type === "left") {
          this.#events.left();
        } else if (this.#attempt !== null && event.session === this.#attempt.session) {
          this.#attempt.take(event);
        } // else a signal of another session
      }
      // It may have been given up between two events, while `next` was not waiting.
      meeting.check();
    } finally {
      clearInterval(renewing);
      globalThis.removeEventListener("online", online);
      globalThis.removeEventListener("pagehide", hidden);
      await meeting.close();
    }
  }

  /**
   * Says goodbye, closes the connection and leaves the room.
   * @param {() => void} bye
   */
  async close(bye) {
    this.#ending = true;
    const peer = this.#attempt?.peer ?? null;
    if (peer?.state === "open") {
      bye();
      await pause(BYE_MS);
    }
    peer?.close("hung up");
    this.#attempt?.cancel();
    await this.#meeting.close();
  }

  /** The page is being closed: there is no time to wait for anything. */
  #leaveAtOnce() {
    this.#ending = true;
    if (this.peer !== null) this.#events.leaving?.();
    // What was sent before is on its way: the other side need not wait to find that nothing comes any more.
    this.#attempt?.peer?.close("hung up");
    this.#meeting.leave();
  }

  /** @param {Joined} joined */
  #takeRelays({ ice }) {
    this.#relays = (ice ?? []).map(({ url, username, credential }) => ({ urls: url, username, credential }));
    const relays = this.#iceServers.some(({ urls }) => [urls].flat().some((url) => url.startsWith("turn")));
    if (this.settings.relayOnly && !relays) {
      throw new BadInput("only a TURN server is to be used, and the meeting point names none");
    }
  }

  get #iceServers() {
    return [...(this.settings.iceServers ?? []), ...this.#relays];
  }

  /** @param {Paired} paired */
  #begin({ session, offer }) {
    const before = this.#attempt;
    const attempt = this.#attempt = new Attempt(session, offer);
    before?.cancel();
    this.#events.paired();
    this.#converse(attempt).catch((error) => console.error(`connection ${session}:`, error));
  }

  /** @param {Attempt} attempt */
  async #converse(attempt) {
    const events = this.#events;
    const peer = new Peer({
      motion: (message) => handled(() => events.motion(message)),
      control: (message) => handled(() => events.control(message)),
      audio: (track) => events.heard?.(track),
    }, { ...this.settings, iceServers: this.#iceServers }, this.settings.audio === false ? null : events.audio());
    attempt.peer = peer;
    const handshake = new Handshake(this.address.secret.key, this.address.room, { offers: attempt.offer });
    let opened = false;
    try {
      await this.#described(attempt, peer, handshake);
      if (await Promise.race([peer.waitOpen(), attempt.cancelled])) {
        opened = true;
        this.peer = peer;
        this.#meeting.live = attempt.session;
        this.connections++;
        events.opened(peer, handshake);
        await Promise.race([peer.waitClosed(), attempt.cancelled]);
      }
    } catch (error) {
      if (!(error instanceof Cancelled)) throw error;
    } finally {
      attempt.done = true;
      if (this.peer === peer) this.peer = this.#meeting.live = null;
      // Whoever replaced this connection has told already.
      if (this.#attempt === attempt && !this.#ending) events.closed(peer.closedBecause || "the connection has ended");
      peer.close(opened ? "replaced by another connection" : "given up");
    }
  }

  /**
   * Both descriptions, or a peer that is closed and says why.
   * @param {Attempt} attempt
   * @param {Peer} peer
   * @param {Handshake} handshake
   */
  async #described(attempt, peer, handshake) {
    let late;
    const timeout = new Promise((resolve) => { late = setTimeout(() => resolve("late"), SIGNAL_WITHIN_MS); });
    try {
      const said = await Promise.race([this.#describe(attempt, peer, handshake), timeout, attempt.cancelled]);
      if (said === "late") peer.close(`no answer from the other side within ${SIGNAL_WITHIN_MS / 1000} s`);
    } catch (error) {
      if (error instanceof NotProven) {
        // Not tried again: whoever is in between would get as many tries.
        this.notProven++;
        console.warn(error.message);
        this.#ending = true;
        this.#meeting.giveUp(error.message);
        peer.close(error.message);
      } else if (error instanceof BadPacket || error instanceof BadInput) {
        console.warn(error.message);
        peer.close(error.message);
      } else if (peer.state !== "closed") {
        throw error;
      } // else what was being described was closed meanwhile
    } finally {
      clearTimeout(late);
    }
  }

  /**
   * @param {Attempt} attempt
   * @param {Peer} peer
   * @param {Handshake} handshake
   */
  async #describe(attempt, peer, handshake) {
    const meeting = this.#meeting;
    meeting.commit(attempt.session, handshake.commitment);
    if (attempt.offer) {
      const offer = await peer.offer(); // while the other side's commitment is on its way
      handshake.meet((await attempt.commits.take()).commitment);
      meeting.send(attempt.session, "offer", offer, handshake.seal(offer));
      const theirs = await attempt.signals.take();
      handshake.check(theirs.sdp, theirs.tag);
      await peer.accept(theirs.sdp);
    } else {
      handshake.meet((await attempt.commits.take()).commitment);
      const theirs = await attempt.signals.take();
      handshake.check(theirs.sdp, theirs.tag);
      const answer = await peer.answer(theirs.sdp);
      meeting.send(attempt.session, "answer", answer, handshake.seal(answer));
    }
  }

  /** Asks for another connection for as long as the last one is lost, or silent against expectation. */
  #renewWhenLost() {
    const attempt = this.#attempt;
    if (this.#ending || attempt === null || !this.#meeting.connected || !this.#events.wantsAnother()) return;
    const { peer } = attempt;
    const silent = peer?.state === "open" && peer.silentMs > SILENT_MS && this.#events.expectsMotion();
    if (!attempt.done && !silent) return;
    console.info(`asking for another connection: ${attempt.done ? "lost" : "silent"}`);
    this.#meeting.renew(attempt.session);
    this.#unheard++;
    // A browser does not notice for minutes that a WebSocket leads nowhere any more.
    if (this.#unheard >= UNHEARD_RENEWALS) {
      this.#unheard = 0;
      this.#meeting.reconnect();
    }
  }

  /** Another network: the old one's way to the signalling server leads nowhere, nor, it may be, that to the other side. */
  #cameOnline() {
    console.info("this computer is online again");
    this.#meeting.reconnect();
    const { peer = null, session = 0 } = this.#attempt ?? {};
    if (peer !== null && peer.state === "open" && peer.silentMs > RENEW_EVERY_MS) this.#meeting.renew(session);
  }
}

/**
 * A defect in handling one message must not end the call; the message is lost.
 * @param {() => void} take
 */
function handled(take) {
  try {
    take();
  } catch (error) {
    console.error("a message could not be handled:", error);
  }
}

/** @param {number} ms */
function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
