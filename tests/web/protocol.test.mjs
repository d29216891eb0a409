// The protocol of a call beside Python's: secrets and tags, messages, rate control and sessions, step by step.

import assert from "node:assert/strict";
import { createHash, createHmac, hkdfSync } from "node:crypto";
import { test } from "node:test";

import { Acquaintance } from "../../shared/kilocall/web/acquaintance.js";
import { BlobStore } from "../../shared/kilocall/web/blob_store.js";
import { base64url, fromBase64url, fromHex, hex, hkdf, hmac, same, sameSecret, utf8 } from "../../shared/kilocall/web/bytes.js";
import {
  Bye,
  CONTROL_TYPES,
  Compared,
  ControlMessage,
  FaceState,
  Hello,
  MAX_MESSAGE_BYTES,
  MAX_REFERENCE_BYTES,
  Part,
  PictureRate,
  ReceiverReport,
  Recognise,
  Reveal,
  SourcePicture,
  parseControl,
} from "../../shared/kilocall/web/control.js";
import { Codebook } from "../../shared/kilocall/web/codebook.js";
import { BadInput, BadPacket, NotProven } from "../../shared/kilocall/web/errors.js";
import { Exchange, PICTURES } from "../../shared/kilocall/web/exchange.js";
import { familyHello, helloOf } from "../../shared/kilocall/web/hello.js";
import { findRoom } from "../../shared/kilocall/web/link.js";
import { Assembly, PartsQueue, isPart } from "../../shared/kilocall/web/long_messages.js";
import { Float, pack, unpack } from "../../shared/kilocall/web/msgpack.js";
import { RateControl, wireBps } from "../../shared/kilocall/web/rate_control.js";
import { ReferenceExchange } from "../../shared/kilocall/web/references.js";
import { plain, withSpeech } from "../../shared/kilocall/web/sdp.js";
import { Session } from "../../shared/kilocall/web/session.js";
import { parseFromServer, websocketUrl } from "../../shared/kilocall/web/signalling.js";
import { StreamReader } from "../../shared/kilocall/web/stream_file.js";
import { Handshake, LinkSecret, fingerprint } from "../../shared/kilocall/web/trust.js";
import { WORDS } from "../../shared/kilocall/web/words.js";
import { WEIGHTS, file, json } from "./helpers.mjs";

/** @typedef {{ secret: string, token: string, key: string, name: string }} GoldenSecret */
/** @typedef {Record<string, any>} GoldenHandshake */
const trust = /** @type {{ words_sha256: string, secrets: GoldenSecret[], handshakes: GoldenHandshake[] }} */ (json("trust.json"));
const golden = /** @type {Record<string, string>} */ (json("control_messages.json"));
const SECRET = "AAECAwQFBgcICQoLDA0ODw";
const [OFFER, ANSWER] = [trust.handshakes[0].offer, trust.handshakes[0].answer];

console.warn = console.info = () => {}; // what is dropped is said, hundreds of times

/**
 * Both sides of a connection whose descriptions are exchanged.
 * @param {Uint8Array} [mine]
 * @param {Uint8Array} [theirs]
 */
function shaken(mine, theirs, room = "tea") {
  const { key } = new LinkSecret(SECRET);
  const offering = new Handshake(key, room, { offers: true, nonce: mine });
  const answering = new Handshake(key, room, { offers: false, nonce: theirs });
  offering.meet(answering.commitment);
  answering.meet(offering.commitment);
  answering.check(OFFER, offering.seal(OFFER));
  offering.check(ANSWER, answering.seal(ANSWER));
  return { offering, answering };
}

test("HMAC and HKDF are those of the system's library", () => {
  for (const length of [0, 1, 32, 63, 64, 65, 300]) {
    const [key, data] = [Uint8Array.from({ length }, (_, n) => n), Uint8Array.from({ length: 3 * length }, (_, n) => 5 * n)];
    assert.equal(hex(hmac(key, data)), createHmac("sha256", key).update(data).digest("hex"));
    const made = hkdfSync("sha256", key, new Uint8Array(), data, 32);
    assert.equal(hex(hkdf(key, data)), hex(new Uint8Array(made)));
    assert.equal(hex(hkdf(key, data, 4)), hex(new Uint8Array(made).subarray(0, 4)));
    assert.deepEqual(fromBase64url(base64url(key)), key);
  }
  assert.ok(sameSecret(Uint8Array.of(1, 2), Uint8Array.of(1, 2)));
  for (const other of [[1, 3], [1], [1, 2, 0], []]) assert.ok(!sameSecret(Uint8Array.of(1, 2), Uint8Array.from(other)));
  assert.ok(!sameSecret(new Uint8Array(), Uint8Array.of(0)));
});

test("the words are Python's", () => {
  assert.equal(createHash("sha256").update(WORDS.join(" ")).digest("hex"), trust.words_sha256);
});

test("token, key and name of a secret are the golden ones", () => {
  for (const { secret, token, key, name } of trust.secrets) {
    const made = new LinkSecret(secret);
    assert.deepEqual([made.token, hex(made.key), made.name], [token, key, name]);
  }
  assert.equal(LinkSecret.make().data.length, 16);
  assert.notEqual(LinkSecret.make().text, LinkSecret.make().text);
});

test("a text that is no secret is refused with what is allowed", () => {
  for (const [text, said] of /** @type {[string, RegExp][]} */ ([
    ["", /other characters than/], ["tea time", /other characters than/], ["a+/aaaaaaaaaaaaaaaaaaaaaaa", /other characters than/],
    ["0123456789", /not base64url|56 bits/], ["AAECAwQFBgcICQoLDA0O", /has 120 bits; allowed are 16 to 48 random bytes as base64url/],
    ["A".repeat(21), /is not base64url/], ["AAECAwQFBgcICQoLDA0ODx", /is not base64url/], ["A".repeat(68), /has 408 bits/],
    [`${SECRET}\n`, /other characters/],
  ])) {
    assert.throws(() => new LinkSecret(text), (error) => error instanceof BadInput && said.test(error.message), text);
  }
});

test("tags, words and proofs of a handshake are the golden ones", () => {
  for (const one of trust.handshakes) {
    const [key, room] = [fromHex(one.key), one.room];
    const offering = new Handshake(key, room, { offers: true, nonce: fromHex(one.offer_nonce) });
    const answering = new Handshake(key, room, { offers: false, nonce: fromHex(one.answer_nonce) });
    assert.deepEqual([offering.commitment, answering.commitment], [one.offer_commitment, one.answer_commitment]);
    offering.meet(answering.commitment);
    answering.meet(offering.commitment);
    assert.equal(offering.seal(one.offer), one.offer_tag);
    answering.check(one.offer, one.offer_tag);
    assert.equal(answering.seal(one.answer), one.answer_tag);
    offering.check(one.answer, one.answer_tag);
    assert.deepEqual([offering.words, answering.words], [[], []]);
    offering.reveal(answering.nonce);
    answering.reveal(offering.nonce);
    for (const side of [offering, answering]) {
      assert.deepEqual(side.words, one.words);
      assert.equal(hex(side.acquaintance), one.acquaintance);
    }
    assert.equal(hex(offering.recognition(offering.acquaintance, { mine: true })), one.offer_recognition);
    assert.equal(hex(offering.recognition(offering.acquaintance, { mine: false })), one.answer_recognition);
    assert.equal(hex(answering.recognition(answering.acquaintance, { mine: true })), one.answer_recognition);
  }
});

test("a description without its tag, of another handshake or of oneself is refused", () => {
  const refused = (/** @type {() => void} */ take) => assert.throws(take, (error) =>
    error instanceof NotProven && error.message.startsWith("the other side could not prove that it has the link"));
  const { key } = new LinkSecret(SECRET);
  const side = (/** @type {boolean} */ offers, bytes = key, room = "tea") => new Handshake(bytes, room, { offers });
  const [offering, answering] = [side(true), side(false)];
  refused(() => offering.seal(OFFER)); // before the commitments
  refused(() => answering.check(OFFER, "0f".repeat(32)));
  refused(() => offering.meet(offering.commitment));
  for (const bad of ["", "0f", `${answering.commitment}00`, answering.commitment.toUpperCase()]) refused(() => offering.meet(bad));
  offering.meet(answering.commitment);
  answering.meet(offering.commitment);
  refused(() => offering.meet(side(false).commitment));
  const tag = offering.seal(OFFER);
  for (const bad of ["", "0f", "0f".repeat(32), "no digits", tag.toUpperCase(), `${tag} `]) refused(() => answering.check(OFFER, bad));
  refused(() => answering.check(OFFER.replace("application 9", "application 8"), tag));
  refused(() => offering.check(OFFER, tag));
  for (const stranger of [side(true, new LinkSecret(trust.secrets[1].secret).key), side(true, key, "coffee"), side(true)]) {
    stranger.meet(answering.commitment);
    refused(() => answering.check(OFFER, stranger.seal(OFFER)));
  }
  answering.check(OFFER, tag);
});

test("a nonce that was not committed to is refused", () => {
  const { offering, answering } = shaken();
  for (const nonce of [new Uint8Array(), new Uint8Array(32), offering.nonce, answering.nonce.subarray(0, 31)]) {
    assert.throws(() => offering.reveal(nonce), /has not kept to what it had committed to/);
  }
  assert.deepEqual(offering.words, []);
  offering.reveal(answering.nonce);
  assert.equal(offering.words.length, 4);
});

test("a description that two programs could read differently is refused", () => {
  const twice = OFFER + OFFER.replace("v=0\r\n", "").toLowerCase();
  assert.deepEqual(fingerprint(twice), fingerprint(OFFER));
  const zeros = Array(32).fill("00").join(":");
  for (const sdp of [
    "", "v=0\r\n", OFFER + ANSWER, `${OFFER}a=fingerprint:sha-1 00:11\r\n`, `${OFFER}a=Fingerprint:SHA-256 00\r\n`,
    OFFER.replace("sha-256", "sha-512"), OFFER.replaceAll(" ", "\u2028"), `${OFFER} a=fingerprint:sha-256 ${zeros}`,
    `${OFFER}s=\x0ba=fingerprint:sha-256 ${zeros}`,
  ]) assert.throws(() => fingerprint(sdp), BadPacket, sdp);
});

test("whole numbers are written in the shortest form", () => {
  for (const [value, wanted] of /** @type {[any, string][]} */ ([
    [0, "00"], [127, "7f"], [128, "cc80"], [255, "ccff"], [256, "cd0100"], [65535, "cdffff"], [65536, "ce00010000"],
    [2 ** 32 - 1, "ceffffffff"], [2 ** 32, "cf0000000100000000"], [2 ** 53, "cf0020000000000000"], [-1, "ff"], [-32, "e0"],
    [-33, "d0df"], [-128, "d080"], [-129, "d1ff7f"], [-32769, "d2ffff7fff"], [-(2 ** 31) - 1, "d3ffffffff7fffffff"],
    [null, "c0"], [true, "c3"], [false, "c2"], ["é", "a2c3a9"], [new Float(1.5), "ca3fc00000"], [[1, [2]], "92019102"],
    [Array(16).fill(0), `dc0010${"00".repeat(16)}`],
    [Uint8Array.of(1, 2), "c4020102"],
  ])) {
    assert.equal(hex(pack(value)), wanted);
    // Beyond 2^53 a number is read exactly, which 2^53 itself is not.
    if (value !== 2 ** 53) assert.deepEqual(unpack(fromHex(wanted)), value);
  }
  for (const length of [31, 32, 255, 256, 65535, 65536]) {
    const [text, data] = ["x".repeat(length), new Uint8Array(length).fill(7)];
    assert.equal(unpack(pack(text)), text);
    assert.deepEqual(unpack(pack(data)), data);
  }
  for (const bad of [1.5, NaN, 2 ** 53 + 2, Array(65536).fill(0)]) assert.throws(() => pack(bad), BadInput);
});

test("control messages are read and written as golden, and no prefix is one", () => {
  const kinds = new Set();
  for (const [name, bytes] of Object.entries(golden)) {
    const data = fromHex(bytes);
    const message = parseControl(data);
    kinds.add(message.constructor);
    assert.equal(hex(message.bytes()), bytes, name);
    for (let length = 0; length < data.length; length++) {
      assert.throws(() => parseControl(data.subarray(0, length)), BadPacket, `${name}, ${length} bytes`);
    }
    assert.throws(() => parseControl(fromHex(`${bytes}00`)), BadPacket, name);
  }
  assert.deepEqual([...CONTROL_TYPES.keys()], Array.from({ length: 21 }, (_, n) => n + 1));
  assert.equal(kinds.size, 21);
  assert.throws(() => parseControl(new Uint8Array(MAX_MESSAGE_BYTES + 1)), /most is/);
});

test("changed control messages are refused as by Python, or read as there", () => {
  const { changed, "by hand": byHand } = json("web_control.json");
  /** @type {(data: Uint8Array) => string | null} */
  const read = (data) => {
    try {
      return hex(parseControl(data).bytes());
    } catch (error) {
      assert.ok(error instanceof BadPacket, String(error));
      return null;
    }
  };
  for (const [name, wanted] of Object.entries(changed)) {
    const data = fromHex(golden[name]);
    const found = [...data].flatMap((_, at) => [0x55, 1].map((change) => {
      const other = data.slice();
      other[at] ^= change;
      return read(other);
    }));
    assert.deepEqual(found, wanted, name);
  }
  for (const [data, wanted] of byHand) assert.equal(read(fromHex(data)), wanted, data);
});

test("a message with a field out of range cannot be made", () => {
  const hash = "0f".repeat(32);
  for (const make of [
    () => new Bye("x".repeat(201)), () => new Bye("\ud800"), () => new PictureRate(999), () => new Reveal(new Uint8Array(31)),
    () => new ReceiverReport(0, 0, 0, 3, 4, 0, 0, 0), () => new FaceState(true, 1.5), () => new FaceState(true, -1),
    () => new Hello("x".repeat(65), hash, hash, 25, 1, 256), () => new Hello("x", hash.toUpperCase(), hash, 25, 1, 256),
    () => new Hello("x", hash, hash, 241, 1, 256), () => new Hello("x", hash, hash, 25, 1, 256, 2),
    () => new SourcePicture("webp", Uint8Array.of(1), hash), () => new SourcePicture("webp", new Uint8Array((256 << 10) + 1)),
  ]) assert.throws(make, BadPacket);
  assert.throws(() => new Hello("x", hash, hash, 25, 1, 256, 2), /peer speaks protocol version 2, this side speaks 1/);
});

test("long messages go in parts and are put together as by Python", () => {
  const { messages, pieces, order, made } = json("web_control.json").parts;
  const split = messages.flatMap((/** @type {string} */ message) => Part.split(fromHex(message)).map((part) => hex(part.bytes())));
  assert.deepEqual(split, pieces);
  const assembly = new Assembly();
  const found = order.map((/** @type {number} */ number) => {
    try {
      const whole = assembly.add(fromHex(pieces[number % pieces.length]));
      return whole === null ? null : hex(whole.subarray(0, 8));
    } catch (error) {
      assert.ok(error instanceof BadPacket);
      return "refused";
    }
  });
  assert.deepEqual(found, made);
  assert.ok(isPart(fromHex(pieces[0])) && !isPart(fromHex(golden.bye)));
  const tooLong = new Part(MAX_MESSAGE_BYTES, Uint8Array.of(1));
  assert.throws(() => new Assembly().add(tooLong.bytes()), /leaves/);
});

test("parts wait for room and for their rate, and one message too many is not taken", async () => {
  /** @type {Uint8Array[]} */
  const sent = [];
  let room = false;
  const queue = new PartsQueue(48_000, { send: (part) => sent.push(part), maySend: () => room });
  const message = new Uint8Array(MAX_MESSAGE_BYTES);
  assert.ok(queue.add(message));
  assert.ok(!queue.add(new Uint8Array(MAX_MESSAGE_BYTES + 1)));
  queue.look();
  assert.equal(sent.length, 0);
  room = true;
  queue.look();
  // A burst of 8 KiB, and some more while this ran.
  assert.ok(sent.length >= 8 && sent.length < 20, `${sent.length} parts`);
  assert.ok(queue.add(message.subarray(0, MAX_MESSAGE_BYTES - 4000)));
  assert.ok(!queue.add(message));
  queue.clear();
  const before = sent.length;
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(sent.length, before);
});

test("messages of the signalling server are taken as by Python", () => {
  for (const [text, wanted] of json("web_signalling.json")) {
    assert.deepEqual(parseFromServer(text), wanted === true ? JSON.parse(text) : wanted, text.slice(0, 200));
  }
});

test("a link names server, room and secret", () => {
  const address = findRoom(`https://meet.example:8443/tea#${SECRET}`);
  assert.deepEqual([address.server, address.room, address.secret.text], ["https://meet.example:8443", "tea", SECRET]);
  assert.equal(address.link, `https://meet.example:8443/tea#${SECRET}`);
  assert.equal(findRoom("http://localhost:8700/tea").secret.data.length, 16);
  for (const bad of ["tea", "ftp://host/tea", "https://host/", "https://host/a/b", `https://host/${"x".repeat(65)}`, "https://host/t%20a"]) {
    assert.throws(() => findRoom(bad), BadInput, bad);
  }
  assert.throws(() => findRoom("https://host/tea#short"), /secret/);
  assert.equal(websocketUrl("https://meet.example", "tea"), "wss://meet.example/ws/tea");
  assert.equal(websocketUrl("http://meet.example:8700/below/", ".."), "ws://meet.example:8700/below/ws");
  for (const bad of ["meet.example", "ftp://meet.example", ""]) assert.throws(() => websocketUrl(bad), BadInput);
});

test("descriptions ask for short speech packets and lose nothing else", () => {
  const sdp = [
    "v=0", "a=extmap-allow-mixed", "m=audio 9 UDP/TLS/RTP/SAVPF 111", "a=extmap:1 urn:x", "a=rtpmap:111 opus/48000/2",
    "a=rtcp-fb:111 transport-cc", "a=fmtp:111 minptime=10;useinbandfec=1", "a=ptime:20", "m=application 9 X", "",
  ].join("\r\n");
  assert.equal(plain(sdp), [
    "v=0", "m=audio 9 UDP/TLS/RTP/SAVPF 111", "a=rtpmap:111 opus/48000/2", "a=fmtp:111 minptime=10;useinbandfec=1", "a=ptime:20",
    "m=application 9 X", "",
  ].join("\r\n"));
  const asked = withSpeech(sdp, { bitrateBps: 8000, packetMs: 60 }).split("\r\n");
  assert.ok(asked.includes("a=ptime:60") && !asked.includes("a=ptime:20"));
  assert.equal(asked.filter((line) => line.startsWith("a=fmtp:111 ")).length, 1);
  assert.match(asked.find((line) => line.startsWith("a=fmtp:")) ?? "", /maxaveragebitrate=8000$/);
  assert.equal(withSpeech(OFFER, { bitrateBps: 8000, packetMs: 60 }), OFFER);
});

test("rate control follows the plans that Python follows", () => {
  for (const { profile, bits, layer, steps, plans } of json("web_rate.json")) {
    const control = new RateControl(profile, { bitsPerFrame: bits, layerBps: layer });
    steps.forEach((/** @type {any[]} */ [nowUs, loss, delayMs, receivedBps, rttMs], /** @type {number} */ n) => {
      if (n % 25 === 0) control.showCamera(n % 100 === 50);
      const plan = loss === undefined ? control.tick(nowUs) : control.update({ nowUs, loss, delayMs, receivedBps, rttMs });
      assert.deepEqual([control.rung, control.guarded, control.steps, ...told(plan)], plans[n], `${profile}, step ${n}`);
    });
    assert.ok(control.plans.every((plan, n) => n === 0 || wireBps(plan, bits) < wireBps(control.plans[n - 1], bits)));
  }
  assert.throws(() => new RateControl(/** @type {any} */ ("toString")), BadInput);
  assert.throws(() => new RateControl("default", { bitsPerFrame: NaN }), BadInput);
});

/** @param {import("../../shared/kilocall/web/rate_control.js").Plan} plan */
const told = (plan) => [
  plan.framesPerMessage, plan.fps, plan.level, plan.audioBps, plan.audioPacketMs, plan.redundantFrames, plan.layerBps,
  plan.cameraBps,
];

/** A session whose ports write down what is asked of them; Python's `Recorder`. */
class Recorder {
  nowUs = 0;
  /** @type {any[][]} */
  asked = [];
  /** @type {number[]} */
  acknowledged = [];
  #told = "[]";

  /** @param {Storage | null} storage */
  constructor(storage = null) {
    const note = (/** @type {string} */ what) => (/** @type {any[]} */ ...values) => {
      this.asked.push([what, ...values.map((value) => (value instanceof Uint8Array ? hex(value) : value))]);
    };
    this.session = new Session({
      acknowledge: (sequence) => this.acknowledged.push(sequence),
      confirm: note("confirm"),
      follow: (plan) => note("follow")(...told(plan)),
      askLayer: (report) => note("askLayer")(report.bytes()),
      takeCamera: note("takeCamera"),
      limit: note("limit"),
    }, { prepare: note("prepare"), use: note("use"), refer: note("refer"), expect: note("expect"), forget: note("forget"),
      showCamera: note("showCamera") }, {
      rate: new RateControl("default", { layerBps: 3000 }),
      clockUs: () => this.nowUs,
      linkName: new LinkSecret(SECRET).name,
      onPlan: () => note("plan")(),
      onReference: note("reference"),
      storage,
    });
    this.session.introduce(new Hello("compact-256", "0f".repeat(32), "a5".repeat(32), 25_000, 1000, 256));
  }

  /** @param {Uint8Array} data */
  send = (data) => {
    this.asked.push(["say", hex(data)]);
    return true;
  };

  news() {
    const asked = this.asked;
    this.asked = [];
    const { session } = this;
    const { remote } = session;
    const state = [
      session.phase, session.reason, session.malformed, session.saidBye, session.confirmed, session.greeted,
      session.rttMs, session.loss, session.sameClock, session.rate.rung,
      [remote.present, remote.face, remote.faceSinceUs, remote.muted, remote.cameraOff],
      [remote.takesCamera, remote.pictureHash],
      session.acquaintance.words, session.acquaintance.verified, [...session.references.held.keys()].sort(),
      [session.pictures.sent, session.pictures.fromCache, session.references.fromCache],
    ];
    const told = JSON.stringify(state);
    const news = told === this.#told ? null : state;
    this.#told = told;
    return [asked, news];
  }
}

/** @param {string} bytes */
function picture(bytes) {
  const message = parseControl(fromHex(bytes));
  assert.ok(message instanceof SourcePicture);
  return message;
}

/** @type {Record<string, (session: Session, recorder: Recorder, ...values: any[]) => void>} */
const DOES = {
  opened(session, { send }, connection) {
    const [mine, theirs] = [0, 1].map((side) => new Uint8Array(32).fill(16 * side + connection % 16));
    session.opened(send, shaken(mine, theirs).offering);
  },
  control: (session, { nowUs }, data) => session.control(fromHex(data), nowUs),
  tick: (session) => session.tick(),
  ownSource: (session, _, bytes) => session.ownSource(picture(bytes)),
  ownReference(session, _, base, bytes, refused) {
    if (refused) assert.throws(() => session.ownReference(base, picture(bytes)), BadInput);
    else session.ownReference(base, picture(bytes));
  },
  ownFace: (session, { nowUs }, seen) => session.ownFace(seen, nowUs),
  ownMedia: (session, _, muted, cameraOff) => session.ownMedia({ muted, cameraOff }),
  ownRate: (session, _, fps) => session.ownRate(fps),
  ownCamera: (session, { nowUs }, shown) => session.ownCamera(shown, nowUs),
  ready: (session, _, pictureHash) => session.pictureReady(pictureHash),
  refused: (session, _, pictureHash) => session.pictureRefused(pictureHash, "no face"),
  motionSent: (session, _, sequence) => session.motionSent({ sequence }),
  closed: (session) => session.closed("lost", "nothing has arrived for 9 s"),
  compared({ acquaintance }, _, refused) {
    if (refused) assert.throws(() => acquaintance.compared(acquaintance.words), BadInput);
    else acquaintance.compared(acquaintance.words);
  },
  furtherReady: (session, _, pictureHash) => session.references.ready(pictureHash),
  furtherRefused: (session, _, pictureHash) => session.references.refused(pictureHash, "no face"),
  report: (session, _, bytes) => session.report(/** @type {ReceiverReport} */ (parseControl(fromHex(bytes)))),
  lag(session, _, own, loop) {
    session.ownLagMs = own;
    session.loopLagMs = loop;
  },
  bye: (session, _, reason) => session.bye(reason),
  takeLayer: (session, _, bps) => session.takeLayer(bps),
  layerLost: (session, _, newest) => session.layerLost(newest),
};

test("sessions ask for what Python's ask for, and know the same", () => {
  json("web_session.json").forEach((/** @type {any[]} */ trace, /** @type {number} */ number) => {
    const recorder = new Recorder();
    trace.forEach(([nowUs, [does, ...values], asked, state], /** @type {number} */ n) => {
      recorder.nowUs = nowUs;
      DOES[does](recorder.session, recorder, ...values);
      assert.deepEqual(recorder.news(), [asked, state], `trace ${number}, step ${n}: ${does} ${values}`);
    });
  });
});

test("what a report names has arrived, and is acknowledged if it was sent on this connection", () => {
  const recorder = new Recorder();
  const { session } = recorder;
  const { offering } = shaken();
  session.opened(recorder.send, offering);
  session.control(session.hello.bytes(), 0);
  session.motionSent({ sequence: 7 });
  for (const highest of [6, 7]) session.control(new ReceiverReport(highest, 0, 1000, 8, 0, 0, 0, 100).bytes(), 40_000);
  assert.deepEqual(recorder.acknowledged, [7]);
  assert.equal(session.rttMs, 40);
  session.opened(recorder.send, shaken().offering);
  session.control(session.hello.bytes(), 0);
  session.control(new ReceiverReport(7, 0, 1000, 8, 0, 0, 0, 100).bytes(), 40_000);
  assert.deepEqual(recorder.acknowledged, [7]);
});

test("Hello says the weights and the codebook that streams of them name", () => {
  const codebook = Codebook.fromBytes(file(`${WEIGHTS}codebook.safetensors`));
  const hello = helloOf(familyHello(file(`${WEIGHTS}manifest.json`), codebook), 24.999);
  const { header } = new StreamReader(file("shared/kilocall/sample/astronaut.kcs"));
  assert.deepEqual([hello.family, hello.weightsHash, hello.codebookHash], [header.family, header.weightsHash, header.codebookHash]);
  assert.deepEqual([hello.fpsNumerator, hello.fpsDenominator, hello.pictureSize], [24_999, 1000, 256]);
  for (const bad of ["{}", '{"family": "compact-256"}', '{"files": {}}']) {
    assert.throws(() => familyHello(new TextEncoder().encode(bad), codebook), BadInput);
  }
});

test("another version, other weights and other models end a call with a sentence", () => {
  const [mine, other] = ["0f".repeat(32), "5a".repeat(32)];
  const hello = new Hello("compact-256", mine, "a5".repeat(32), 25_000, 1000, 256).bytes();
  hello[2] = 2; // the version
  for (const [first, said] of /** @type {[Uint8Array, RegExp][]} */ ([
    [hello, /different protocol versions \(peer speaks protocol version 2, this side speaks 1\): please update the older/],
    [new Hello("compact-256", mine, other, 25, 1, 256).bytes(), /same version of kilocall/],
    [new Hello("facevid2vid", mine, other, 25, 1, 256).bytes(), /'facevid2vid'.*--family/],
  ])) {
    const recorder = new Recorder();
    recorder.session.opened(recorder.send, shaken().offering);
    recorder.asked = [];
    recorder.session.control(first, 0);
    assert.equal(recorder.session.phase, "refused");
    assert.match(recorder.session.reason, said);
    const [[, bye]] = recorder.asked;
    assert.equal(/** @type {Bye} */ (parseControl(fromHex(bye))).reason, recorder.session.reason);
  }
});

/**
 * Local storage as a page has it.
 * @returns {Storage}
 */
function storage() {
  /** @type {Map<string, string>} */
  const held = new Map();
  return {
    get length() { return held.size; },
    key: (n) => [...held.keys()][n] ?? null,
    getItem: (key) => held.get(key) ?? null,
    setItem: (key, value) => { held.set(key, value); },
    removeItem: (key) => { held.delete(key); },
    clear: () => held.clear(),
  };
}

/**
 * Two acquaintances of one link over a new connection.
 * @param {Storage} here
 * @param {Storage} there
 */
function acquainted(here, there) {
  const { offering, answering } = shaken();
  const { name } = new LinkSecret(SECRET);
  /** @type {Acquaintance[]} */
  const both = [];
  const make = (/** @type {number} */ number, /** @type {Storage} */ kept) => {
    /** @type {(message: ControlMessage) => void} */
    const say = (message) => both[1 - number].take(/** @type {Reveal | Recognise | Compared} */ (message));
    return new Acquaintance(name, { say: (message) => queue.push(() => say(message)), drop: assert.fail, changed() {} }, kept);
  };
  /** @type {(() => void)[]} */
  const queue = [];
  both.push(make(0, here), make(1, there));
  const settle = () => { while (queue.length) queue.shift()?.(); };
  both[0].opened(offering);
  both[1].opened(answering);
  settle();
  return { first: both[0], second: both[1], settle };
}

test("who compared words once is recognised with the next connection, by whoever compared", () => {
  const [here, there] = [storage(), storage()];
  const met = acquainted(here, there);
  assert.deepEqual(met.first.words, met.second.words);
  assert.equal(met.first.verified, false);
  assert.throws(() => met.first.compared(["other", "words"]), /have changed/);
  met.first.compared(met.first.words);
  met.settle();
  assert.deepEqual([met.first.verified, met.second.verified, met.first.expected, met.second.expected], [true, false, true, false]);
  const again = acquainted(here, there);
  assert.deepEqual([again.first.verified, again.second.verified], [true, false]);
  const stranger = acquainted(here, storage());
  assert.deepEqual([stranger.first.verified, stranger.first.expected], [false, true]);
  again.second.compared(again.second.words);
  again.settle();
  const third = acquainted(here, there);
  assert.deepEqual([third.first.verified, third.second.verified], [true, true]);
});

test("what is kept of links is bounded, and one that is broken is as good as none", () => {
  const kept = storage();
  for (let n = 0; n < 500; n++) kept.setItem(`kilocall/links/${n}`, JSON.stringify({ here: null, there: null, keptMs: n }));
  kept.setItem("of another page", "stays");
  const { first, settle } = acquainted(kept, storage());
  first.compared(first.words);
  settle();
  assert.equal(kept.length, 501);
  assert.equal(kept.getItem("kilocall/links/0"), null);
  assert.notEqual(kept.getItem("kilocall/links/1"), null);
  const { name } = new LinkSecret(SECRET);
  const ports = { say() {}, drop() {}, changed() {} };
  assert.equal(new Acquaintance(name, ports, kept).expected, true);
  for (const broken of ["", "{", "null", '{"here":5,"there":null}', `{"here":"${"x".repeat(64)}","there":null}`]) {
    kept.setItem(`kilocall/links/${name}`, broken);
    assert.equal(new Acquaintance(name, ports, kept).expected, false, broken);
  }
});

test("a picture that is kept is not asked for again, and a damaged one is", () => {
  const store = new BlobStore("pictures", 3);
  const theirs = new SourcePicture("avif", utf8("theirs"));
  /** @type {() => { exchange: Exchange, said: ControlMessage[], got: SourcePicture[] }} */
  const meet = () => {
    /** @type {ControlMessage[]} */
    const said = [];
    /** @type {SourcePicture[]} */
    const got = [];
    const exchange = new Exchange(PICTURES, {
      say: (message) => said.push(message), drop: assert.fail, clockUs: () => 0, got: (one) => got.push(one), offered() {},
      confirmed() {}, inUse: () => [],
    }, store);
    exchange.take(theirs.offer());
    return { exchange, said, got };
  };
  const first = meet();
  assert.equal(first.said.length, 1);
  first.exchange.take(theirs);
  assert.deepEqual(meet().got.map(({ pictureHash }) => pictureHash), [theirs.pictureHash]);
  store.put(theirs.pictureHash, utf8("damaged"));
  assert.deepEqual(meet().got, []);
  for (const n of [1, 2, 3]) store.put(String(n), new Uint8Array(1));
  assert.equal(store.get(theirs.pictureHash), undefined);
  store.put("4", new Uint8Array(5 << 20)); // more than may be kept
  assert.equal(store.get("4"), undefined);
});

test("further pictures beyond what is allowed are refused here and dropped there", () => {
  const dropped = /** @type {string[]} */ ([]);
  const exchange = new ReferenceExchange({ say() {}, drop: (why) => dropped.push(why), got() {}, confirmed() {} });
  exchange.follow("base");
  for (let n = 0; n < 7; n++) assert.ok(exchange.offer("base", new SourcePicture("webp", Uint8Array.of(n))));
  assert.throws(() => exchange.offer("base", new SourcePicture("webp", Uint8Array.of(99))), /most are 8/);
  assert.throws(() => exchange.offer("base", new SourcePicture("webp", new Uint8Array(MAX_REFERENCE_BYTES + 1))), BadInput);
  assert.ok(!exchange.offer("other", new SourcePicture("webp", Uint8Array.of(1))));
  assert.equal(exchange.ownBytes, 7);
  const offer = /** @type {import("../../shared/kilocall/web/control.js").ReferenceOffer} */ (parseControl(fromHex(golden.reference)));
  for (let n = 0; n < 71; n++) exchange.takeOffer(offer);
  assert.deepEqual(dropped, ["too many further pictures are offered"]);
  assert.ok(same(offer.bytes(), fromHex(golden.reference)));
});
