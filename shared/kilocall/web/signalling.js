// A place in a room of a signalling server, kept through lost connections.
//
// As `call/signalling.py`, which has the messages; `signalling_server.py` is the other end. JSON objects over one
// WebSocket. Nothing that comes from it is believed: descriptions are authenticated with the link's secret, which is never
// sent.

import { BadInput } from "./errors.js";

/** @typedef {import("./trust.js").LinkSecret} LinkSecret */

export const SIGNALLING_VERSION = 2;
export const MAX_MESSAGE_BYTES = 32 << 10;
const MAX_SDP = 16 << 10;
const OPEN_WITHIN_MS = 8000;
const LEAVE_WITHIN_MS = 1000;
const MOST_EVENTS = 64;
const MOST_WAITING = 8;
const MOST_RELAYS = 4;
/** Refusals that pass by themselves: whoever has a place in a room tries again. */
const PASSING = ["busy", "connections", "joins", "rooms"];
const CODES = /** @type {const} */ ([
  "full", "token", "version", "busy", "connections", "joins", "rooms", "draining", "malformed", "rate", "expired", "replaced",
]);

/**
 * A TURN server and what it may be used with for a while.
 * @typedef {{ url: string, username: string, credential: string }} Relay
 */

/** @typedef {{ type: "joined", member: string, others: number, ice: Relay[] | null }} Joined */
/** @typedef {{ type: "paired", session: number, offer: boolean }} Paired whether this side makes the offer */
/** @typedef {{ type: "commit", session: number, commitment: string }} Commit */
/** @typedef {{ type: "signal", session: number, kind: "offer" | "answer", sdp: string, tag: string }} Signal */
/** @typedef {{ type: "left" }} Left */
/** @typedef {{ type: "refused", code: typeof CODES[number], reason: string }} Refused */
/** @typedef {Joined | Paired | Commit | Signal | Left} SignallingEvent what `next` returns */

const ROOM = /^[A-Za-z0-9._~-]{1,64}$/;
const TOKEN = /^[A-Za-z0-9_-]{16,64}$/;
const COMMITMENT = /^[0-9a-f]{64}$/;
const RELAY = /^turns?:[A-Za-z0-9.-]+(:[0-9]{1,5})?(\?transport=(udp|tcp))?$/;

/** @typedef {(value: any) => boolean} Check */

/** @type {(pattern: RegExp) => Check} */
const matches = (pattern) => (value) => typeof value === "string" && pattern.test(value);
/** @type {(most: number) => Check} */
const textUpTo = (most) => (value) => typeof value === "string" && [...value].length <= most;
/** @type {Check} */
const isSession = (value) => Number.isInteger(value) && value >= 0 && value < 2 ** 32;

/** @type {Record<string, Check>} */
const RELAY_FIELDS = {
  url: (value) => textUpTo(300)(value) && RELAY.test(value),
  username: textUpTo(128),
  credential: textUpTo(128),
};

/**
 * What each message of the server holds, and what it may leave out.
 * @type {Record<string, { fields: Record<string, Check>, optional: Record<string, any> }>}
 */
const MESSAGES = {
  joined: {
    fields: {
      member: matches(TOKEN),
      others: (value) => value === 0 || value === 1,
      ice: (value) => value === null
        || (Array.isArray(value) && value.length <= MOST_RELAYS && value.every((one) => fits(one, RELAY_FIELDS))),
    },
    optional: { ice: null },
  },
  paired: { fields: { session: isSession, offer: (value) => typeof value === "boolean" }, optional: {} },
  commit: { fields: { session: isSession, commitment: matches(COMMITMENT) }, optional: {} },
  signal: {
    fields: {
      session: isSession,
      kind: (value) => value === "offer" || value === "answer",
      sdp: textUpTo(MAX_SDP),
      tag: textUpTo(64),
    },
    optional: { tag: "" },
  },
  left: { fields: {}, optional: {} },
  refused: { fields: { code: (value) => CODES.includes(value), reason: textUpTo(300) }, optional: {} },
};

/**
 * @param {any} value
 * @param {Record<string, Check>} fields
 */
function fits(value, fields) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const names = Object.keys(fields);
  return Object.keys(value).length === names.length
    && names.every((name) => Object.hasOwn(value, name) && fields[name](value[name]));
}

/**
 * One message of the server; null for what makes no sense.
 * @param {string} text
 * @returns {SignallingEvent | Refused | null}
 */
export function parseFromServer(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof value !== "object" || value === null || Array.isArray(value) || typeof value.type !== "string") return null;
  const { type, ...rest } = value;
  if (!Object.hasOwn(MESSAGES, type)) return null;
  const { fields, optional } = MESSAGES[type];
  const whole = { ...optional, ...rest };
  return fits(whole, fields) ? { type, ...whole } : null;
}

/**
 * `http://host:port` or `https://host` of a signalling server to its WebSocket's address. Throws BadInput.
 *
 * It ends with the room, by which a proxy may choose one of several signalling servers.
 * @param {string} server
 * @param {string} room
 */
export function websocketUrl(server, room = "") {
  const scheme = { "http:": "ws:", "https:": "wss:", "ws:": "ws:", "wss:": "wss:" };
  const parts = URL.canParse(server) ? new URL(server) : null;
  if (parts === null || !parts.host || !Object.hasOwn(scheme, parts.protocol)) {
    throw new BadInput(`server is ${server}, allowed is http://host:port or https://host`);
  }
  // Those two would be taken for folders.
  const part = room && room !== "." && room !== ".." ? `/${room}` : "";
  const found = scheme[/** @type {keyof typeof scheme} */ (parts.protocol)];
  return `${found}//${parts.host}${parts.pathname.replace(/\/+$/, "")}/ws${part}`;
}

/**
 * A sentence about a signalling server that cannot be reached. A browser does not tell a page why.
 * @param {string} server
 */
function unreachable(server) {
  const why = globalThis.navigator?.onLine === false
    ? "this computer is offline"
    : `${new URL(server).host} does not answer; is kilocall serve running there, and does this computer have a network?`;
  return `the meeting point cannot be reached: ${why}`;
}

/** @param {string} room */
export function noRoom(room) {
  return new BadInput(`room is '${room.slice(0, 78)}'; allowed are 1 to 64 letters, digits and . _ ~ -`);
}

/** @param {string} room */
export function isRoom(room) {
  return ROOM.test(room);
}

/**
 * Comes back by itself, after 0.25 s and then up to 8 s, as the same member of the room. A connection between the parties
 * does not depend on it: while `live` names its session, coming back does not replace it. Throws BadInput for settings
 * that cannot be used.
 *
 *     const meeting = new Signalling("https://host", "tea", secret);
 *     meeting.start();
 *     const event = await meeting.next();
 */
export class Signalling {
  #server;
  #join;
  #waitsMs;
  #waitMs;
  /** @type {SignallingEvent[]} */
  #events = [];
  /** @type {{ type: string }[]} */
  #outbox = [];
  /** @type {Refused | null} */
  #refused = null;
  #givenUp = "";
  #closed = false;
  /** @type {WebSocket | null} */
  #socket = null;
  /** @type {ReturnType<typeof setTimeout> | null} */
  #timer = null;
  /** @type {(() => void)[]} who waits for something to change */
  #waiting = [];

  /**
   * @param {string} server
   * @param {string} room
   * @param {LinkSecret} secret
   * @param {{ firstWaitMs?: number, mostWaitMs?: number }} waits
   */
  constructor(server, room, secret, { firstWaitMs = 250, mostWaitMs = 8000 } = {}) {
    if (!isRoom(room)) throw noRoom(room);
    this.#server = server;
    this.#join = { type: "join", version: SIGNALLING_VERSION, room, token: secret.token, member: /** @type {string | null} */ (null) };
    this.url = websocketUrl(server, room);
    this.connected = false;
    /** Why it cannot be reached, for people; nothing while it can. */
    this.trouble = "";
    /** @type {number | null} session whose connection is open */
    this.live = null;
    /** Messages of the server that made no sense and were dropped. */
    this.malformed = 0;
    this.#waitsMs = [firstWaitMs, mostWaitMs];
    this.#waitMs = firstWaitMs;
  }

  /** Begins to connect; `close` ends that. */
  start() {
    if (this.#socket === null && !this.#closed) this.#open();
  }

  /** Begins again at once, without waiting for a connection that leads nowhere any more. */
  reconnect() {
    if (this.#closed || this.#refused !== null) return;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    this.#drop();
    this.connected = false;
    this.#waitMs = this.#waitsMs[0];
    this.#open();
  }

  /** Leaves the room. */
  async close() {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    const socket = this.#socket;
    if (socket !== null && this.connected) {
      this.#outbox = [];
      const closed = new Promise((resolve) => {
        socket.addEventListener("close", resolve);
        setTimeout(resolve, LEAVE_WITHIN_MS);
      });
      socket.send(JSON.stringify({ type: "leave" }));
      await closed;
    }
    this.#drop();
    this.connected = false;
    this.#changed();
  }

  /** Leaves the room at once, as a page must that is being closed. */
  leave() {
    this.#closed = true;
    if (this.#socket !== null && this.connected) this.#socket.send(JSON.stringify({ type: "leave" }));
  }

  /**
   * The next event; null once this was closed. Throws BadInput with the reason when the signalling server refuses for good.
   * @returns {Promise<SignallingEvent | null>}
   */
  async next() {
    this.check();
    for (;;) {
      const event = this.#events.shift();
      if (event !== undefined) return event;
      if (this.#refused !== null) throw new BadInput(`meeting point refused: ${this.#refused.reason}`);
      if (this.#closed) return null;
      await new Promise((resolve) => this.#waiting.push(() => resolve(null)));
      this.check();
    }
  }

  /** Throws BadInput once this has been given up. */
  check() {
    if (this.#givenUp) throw new BadInput(this.#givenUp);
  }

  /**
   * Sends what this side commits to for a session; later, when there is no connection just now.
   * @param {number} session
   * @param {string} commitment
   */
  commit(session, commitment) {
    this.#put({ type: "commit", session, commitment });
  }

  /**
   * Sends this side's offer or answer of a session, likewise.
   * @param {number} session
   * @param {"offer" | "answer"} kind
   * @param {string} sdp
   * @param {string} tag
   */
  send(session, kind, sdp, tag) {
    this.#put({ type: "signal", session, kind, sdp, tag });
  }

  /**
   * Makes `next` and `check` throw BadInput with this reason, whatever else has come.
   * @param {string} reason
   */
  giveUp(reason) {
    this.#givenUp = reason;
    this.#changed();
  }

  /**
   * Asks for a new session, because the connection of this one is lost.
   * @param {number} session
   */
  renew(session) {
    this.#put({ type: "renew", session });
  }

  /** @param {{ type: string } & Record<string, any>} message */
  #put(message) {
    this.#outbox.push(message);
    while (this.#outbox.length > MOST_WAITING) this.#outbox.shift();
    this.#write();
  }

  /** Sends what waits, once joined. What was handed to a connection that then breaks is asked for again by its session. */
  #write() {
    while (this.connected && this.#socket?.readyState === WebSocket.OPEN && this.#outbox.length) {
      this.#socket.send(JSON.stringify(this.#outbox.shift()));
    }
  }

  #changed() {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const tell of waiting) tell();
  }

  #open() {
    const socket = new WebSocket(this.url);
    this.#socket = socket;
    const late = setTimeout(() => this.#ended(socket), OPEN_WITHIN_MS);
    socket.onopen = () => {
      clearTimeout(late);
      socket.send(JSON.stringify({ ...this.#join, live: this.live }));
    };
    socket.onmessage = ({ data }) => this.#take(socket, data);
    socket.onclose = () => {
      clearTimeout(late);
      this.#ended(socket);
    };
  }

  /** Lets go of the socket, whatever becomes of it. */
  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    if (socket === null) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  /**
   * @param {WebSocket} socket
   * @param {unknown} data
   */
  #take(socket, data) {
    const message = typeof data === "string" && data.length <= MAX_MESSAGE_BYTES ? parseFromServer(data) : null;
    if (message === null) {
      this.malformed++;
      return;
    }
    if (message.type === "refused") {
      if (message.code === "draining" || (PASSING.includes(message.code) && this.#join.member !== null)) {
        console.info(`meeting point refused for now: ${message.reason}`);
        this.#ended(socket);
        return;
      }
      this.#refused = message;
      this.#drop();
      this.connected = false;
      this.#changed();
      return;
    }
    if (message.type === "joined") {
      this.connected = true;
      this.trouble = "";
      this.#join.member = message.member;
      this.#write();
    }
    this.#events.push(message);
    while (this.#events.length > MOST_EVENTS) this.#events.shift();
    this.#changed();
  }

  /**
   * A connection that is gone, or never came: another one follows.
   * @param {WebSocket} socket
   */
  #ended(socket) {
    if (socket !== this.#socket) return;
    this.#drop();
    if (this.#closed) {
      this.#changed();
      return;
    }
    if (this.connected) {
      // One that was there is mostly back in a moment; only the next try says what is wrong.
      this.connected = false;
      this.#waitMs = this.#waitsMs[0];
    } else {
      this.trouble = unreachable(this.#server);
    }
    // Spread out, so that not all come back at once to a signalling server that was restarted.
    const waitMs = this.#waitMs * (0.5 + Math.random() / 2);
    this.#waitMs = Math.min(2 * this.#waitMs, this.#waitsMs[1]);
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#open();
    }, waitMs);
  }
}
