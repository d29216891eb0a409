// The page: opens the stream, shows what is due, and does what the controls say.

import { Codebook } from "./codebook.js";
import { BadInput, KilocallError } from "./errors.js";
import { readFaces } from "./faces.js";
import { decoded, pixelsOf, readPicture } from "./given_picture.js";
import { GlComposer } from "./gl_compose.js";
import { halved } from "./compose.js";
import { ReplayStream, FrameCursor, Playhead, bitsByTime } from "./player.js";
import { Speech } from "./speech.js";
import { StreamReader } from "./stream_file.js";

/** @typedef {import("./worker.js").Answer} Answer */
/** @typedef {import("./worker.js").Opening} Opening */
/** @typedef {import("./renderer.js").Pixels} Pixels */

const ANGLES = /** @type {const} */ (["yaw", "pitch", "roll"]);
const MOST_KEY_MARKS = 200;
const STEP_US = 1_000_000;
const WINDOW_MS = 1000;

/**
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 */
const $ = (id) => /** @type {T} */ (document.getElementById(id));
/** @param {string} id */
const input = (id) => /** @type {HTMLInputElement} */ ($(id));

const canvas = /** @type {HTMLCanvasElement} */ ($("picture"));
const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const nowUs = () => Math.round(performance.now() * 1000);

const embedded = new URLSearchParams(location.search).has("embed");

document.body.classList.toggle("embedded", embedded);

open().catch((error) => say(error instanceof KilocallError ? error.message : String(error)));

async function open() {
  const [found, codebook, stream] = await Promise.all(["faces.json", "networks/codebook.safetensors", "stream.kcs"].map(file));
  const faces = readFaces(JSON.parse(new TextDecoder().decode(found)));
  const reader = new StreamReader(stream, faces.title);
  const replay = new ReplayStream(reader, Codebook.fromBytes(codebook));
  check(reader, faces, replay);
  const source = reader.sourcePicture();
  if (source === null) throw new BadInput("the stream holds no source picture");
  const stored = [source, ...reader.references()];
  const bitmaps = await Promise.all(faces.pictures.map(({ number }) => decoded(stored[number].data, stored[number].format)));
  const pictures = bitmaps.map((bitmap, n) => {
    const { small, detail } = seen(bitmap, faces.size, bitmaps[0].width >= 2 * faces.size);
    return { reference: faces.pictures[n].reference, small, detail };
  });
  const view = new View(replay, faces, pictures.length);
  view.open(pictures, new Blob([new Uint8Array(source.data)], { type: `image/${source.format}` }));
}

/**
 * @param {StreamReader} reader
 * @param {import("./faces.js").Faces} faces
 * @param {ReplayStream} replay
 */
function check({ header, frameCount, damage }, { family, weightsHash, pictures }, { decoder }) {
  const fits = header.family === family && header.weightsHash === weightsHash;
  if (!fits || header.codebookHash !== decoder.codebook.hash || !pictures.length) {
    throw new BadInput("the stream was made with other networks than this page has: export it again");
  }
  if (!frameCount) throw new BadInput(`the stream holds no complete motion packet (${damage ?? "it is empty"})`);
}

/** What is seen and pressed. */
class View {
  /**
   * @param {ReplayStream} replay
   * @param {import("./faces.js").Faces} faces
   * @param {number} pictures
   */
  constructor(replay, faces, pictures) {
    this.replay = replay;
    this.faces = faces;
    const { header, durationUs, frameCount } = replay.reader;
    this.fps = header.fps.numerator / header.fps.denominator;
    this.frames = frameCount;
    this.head = new Playhead(durationUs);
    this.cursor = new FrameCursor(replay);
    this.bits = bitsByTime(replay.reader);
    this.speech = new Speech([...replay.reader.sounds()]);
    /** @type {GlComposer | null} where no worker can draw */
    this.composer = null;
    /** @type {ReturnType<GlComposer["hold"]>[]} */
    this.held = [];
    /** @type {ReturnType<GlComposer["hold"]> | null} another picture's */
    this.heldOther = null;
    /** @type {Blob | null} the stream's own picture */
    this.ownPicture = null;
    this.pictures = pictures;
    /** The file that is shown in place of the stream's pictures, and the one that is being looked at. */
    this.other = /** @type {string | null} */ (null);
    this.given = /** @type {string | null} */ (null);
    this.camera = false; // whether what the camera saw is shown
    this.layered = false; // whether there is a video layer under the stream's own picture
    /** @type {import("./player.js").TimedMotion | null} what is being made, or shown */
    this.last = null;
    this.busy = true;
    this.seeking = false; // the bar is being dragged: it must not jump back to what is shown
    this.jumps = 0;
    this.leadUs = 0; // what a picture takes: it is asked for so much before it is due
    this.sentMs = 0;
    /** @type {[number, number][]} when a picture of the last second was shown, and its bits a frame */
    this.recent = [];
    /** Pictures shown since the page was opened. */
    this.shown = 0;
    this.#label(pictures);
    this.#listen();
  }

  /**
   * @param {Opening["pictures"]} pictures
   * @param {Blob} source
   */
  open(pictures, source) {
    this.ownPicture = source;
    showSource(source);
    const { size } = this.faces;
    const drawsThere = "transferControlToOffscreen" in canvas;
    const offscreen = drawsThere ? canvas.transferControlToOffscreen() : null;
    if (!drawsThere) {
      const composer = new GlComposer(canvas, size);
      this.composer = composer;
      this.held = pictures.map(({ small, detail }) => composer.hold(small, detail));
    }
    worker.onmessage = ({ data }) => this.#heard(data);
    worker.onerror = (event) => say(`the page's worker failed: ${event.message ?? "it cannot be loaded"}`);
    const layer = this.replay.reader.video().map((frame) => ({ ...frame, data: frame.data.slice() }));
    /** @type {Opening} */
    const wish = { do: "open", canvas: offscreen, size, pictures, layer };
    worker.postMessage(wish, offscreen ? [offscreen] : []);
  }

  /** @param {Answer} answer */
  #heard(answer) {
    if (answer.did === "fail") {
      say(answer.reason);
      return;
    }
    if (answer.did === "refuse") {
      this.#settle(`${this.given}: ${answer.reason}`);
      return;
    }
    if (answer.did === "show") {
      this.#shows(answer.picture);
      return;
    }
    this.busy = false;
    if (answer.did === "open") {
      document.documentElement.dataset.threads = String(answer.threads);
      const { damage } = this.replay.reader;
      say(damage === null ? "" : `The stream breaks off: ${damage}`);
      $("start").hidden = false;
      this.#settle();
      this.#due();
      return;
    }
    const held = answer.picture === null ? this.heldOther : this.held[answer.picture];
    if (answer.frame !== null && held !== null) this.composer?.draw(held, answer.frame);
    if (answer.plain !== null) this.composer?.show(answer.plain);
    const { field, move, generator, layer, compose } = answer.ms;
    const took = performance.now() - this.sentMs;
    this.leadUs = this.leadUs ? 0.8 * this.leadUs + 0.2 * took * 1000 : took * 1000;
    this.recent.push([performance.now(), this.#bitsAt(this.last?.timeUs ?? 0)]);
    this.shown++;
    const { dataset } = document.documentElement;
    dataset.shown = String(this.shown);
    dataset.frame = String(answer.number);
    dataset.ms = [field, move, generator, compose, layer].map((ms) => ms.toFixed(1)).join(" ");
    dataset.layered = String(answer.layered);
    dataset.camera = String(answer.camera);
    const layered = answer.layered > 0;
    if (layered !== this.layered || answer.camera !== this.camera) {
      this.layered = layered;
      this.camera = answer.camera;
      this.#badge();
    }
    $("frame").textContent = `${answer.number} of ${this.frames}`;
    $("made").textContent = (this.leadUs / 1000).toFixed(0);
    // Not with the screen's next refresh: the worker would stand idle until then.
    if (this.head.playing) this.#ask(this.head.position(nowUs()));
  }

  /**
   * Another picture in place of the stream's own. Whatever is wrong with it is said, and the picture before stays.
   * @param {File} file
   */
  async #give(file) {
    this.#begin(file.name, "Looking for the face…");
    try {
      const picture = await readPicture(new Uint8Array(await file.arrayBuffer()));
      worker.postMessage({ do: "show", picture }, [picture.data.buffer]);
    } catch (error) {
      this.#settle(`${file.name}: ${error instanceof KilocallError ? error.message : String(error)}`);
    }
  }

  #giveBack() {
    this.#begin(null, "");
    worker.postMessage({ do: "show", picture: null });
  }

  /**
   * @param {string | null} name
   * @param {string} text
   */
  #begin(name, text) {
    this.given = name;
    input("file").disabled = true;
    $("own").setAttribute("disabled", "");
    $("source-error").textContent = "";
    $("source-doing").textContent = text;
  }

  /** @param {string} [problem] */
  #settle(problem = "") {
    this.sentMs = performance.now(); // what was asked for meanwhile begins only now
    input("file").disabled = false;
    $("own").toggleAttribute("disabled", this.other === null);
    $("source-doing").textContent = "";
    $("source-error").textContent = problem;
  }

  /** @param {{ small: Pixels, detail: Pixels | null } | null} picture null: the stream's own */
  #shows(picture) {
    if (this.composer !== null) {
      if (this.heldOther !== null) this.composer.release(this.heldOther);
      this.heldOther = picture && this.composer.hold(picture.small, picture.detail);
    }
    this.other = picture && this.given;
    if (picture !== null) showPixels(picture.small, this.faces.size);
    else if (this.ownPicture !== null) showSource(this.ownPicture);
    this.#badge();
    this.#settle();
    this.last = null; // made anew
  }

  #badge() {
    canvas.ariaLabel = this.camera ? "What the speaker’s camera saw" : "The speaker, reconstructed";
    if (this.camera) {
      $("badge-title").textContent = "Camera, not reconstructed.";
      $("badge-text").textContent = `From ${this.faces.title}.`;
      return;
    }
    const from = (this.pictures > 1 ? `${this.pictures} pictures` : "one picture") + (this.layered ? " and a little video" : "");
    $("badge-title").textContent = `Reconstructed from ${this.other === null ? from : "another picture"}.`;
    $("badge-text").textContent = `Source: ${this.other ?? "the stream’s own picture"}, from ${this.faces.title}.`;
  }

  /** Shows where the stream is and asks for what is due, as often as the screen is drawn. */
  #due = () => {
    requestAnimationFrame(this.#due);
    const now = nowUs();
    if (this.head.turnAtEnd(now)) this.#label();
    const position = this.head.position(now);
    if (!this.seeking) showPosition(position, this.head.durationUs);
    this.speech.follow(position, this.head.playing, this.head.speed);
    if (!this.busy) this.#ask(position);
  };

  /**
   * Asks for the picture of a stream time, unless it is the last one.
   * @param {number} position
   */
  #ask(position) {
    const lead = this.head.playing ? Math.min(this.leadUs * this.head.speed, this.head.durationUs / 4) : 0;
    const found = this.cursor.at(Math.min(position + lead, this.head.durationUs));
    if (found === null || found === this.last) return;
    const stepUs = Math.max(0, found.timeUs - (this.last?.timeUs ?? found.timeUs));
    this.last = found;
    this.busy = true;
    this.sentMs = performance.now();
    const number = Math.min(1 + Math.round((found.timeUs * this.fps) / 1e6), this.frames);
    const turn = /** @type {[number, number, number]} */ (ANGLES.map((angle) => (input(angle).valueAsNumber * Math.PI) / 180));
    const restart = this.jumps !== this.cursor.jumps;
    /** @type {import("./worker.js").Rendering} */
    const wish = { do: "render", number, timeUs: found.timeUs, vector: found.vector, turn, restart, stepUs };
    this.jumps = this.cursor.jumps;
    worker.postMessage(wish);
  }

  /** @param {number} timeUs */
  #bitsAt(timeUs) {
    const later = this.bits.findIndex((packet) => packet.timeUs > timeUs);
    return this.bits[Math.max(0, (later < 0 ? this.bits.length : later) - 1)].bits;
  }

  /** @param {number} [pictures] */
  #label(pictures) {
    const { playing } = this.head;
    $("play").textContent = playing ? "Pause" : "Play";
    $("play").setAttribute("aria-pressed", String(playing));
    $("start").classList.toggle("sr", playing);
    if (pictures === undefined) return;
    const { title } = this.faces;
    document.title = `${title} – kilocall`;
    this.#badge();
    input("seek").max = String(this.head.durationUs / 1e6);
    const mean = this.bits.reduce((sum, { bits, frames }) => sum + bits * frames, 0) / this.frames;
    $("overall").textContent =
      `${mean.toFixed(1)} bits a frame, ${kbps(mean, this.fps)} kbit/s at ${Math.round(this.fps * 100) / 100} frames/s`;
    const { index } = this.replay.reader;
    const marks = index.length > MOST_KEY_MARKS ? [] : index;
    $("keys").replaceChildren(...marks.map(({ timeUs }) => {
      const mark = document.createElement("i");
      mark.style.left = `${(100 * timeUs) / this.head.durationUs}%`;
      return mark;
    }));
    const { records, playable } = this.speech;
    $("sound").hidden = !records.length || !playable;
    $("silent").hidden = !records.length || playable;
    const here = new URL(location.href);
    here.search = "embed";
    here.hash = "";
    input("embed").value =
      `<iframe src="${here.href}" title="${title.replace(/[&"<]/g, "")}" width="320" height="384" allow="cross-origin-isolated" loading="lazy"></iframe>`;
  }

  #listen() {
    const { head } = this;
    const toggle = () => {
      if (head.playing) head.pause(nowUs());
      else head.play(nowUs());
      this.#label();
    };
    const skip = (/** @type {number} */ byUs) => head.seek(head.position(nowUs()) + byUs, nowUs());
    const turn = () => {
      for (const angle of ANGLES) {
        /** @type {HTMLElement} */ (input(angle).nextElementSibling).textContent = `${input(angle).value}°`;
      }
      this.last = null; // made anew
    };
    const straight = () => {
      for (const angle of ANGLES) input(angle).value = "0";
      turn();
    };
    $("play").onclick = $("start").onclick = canvas.onclick = toggle;
    input("seek").oninput = () => {
      this.seeking = true;
      head.seek(input("seek").valueAsNumber * 1e6, nowUs());
      showClock(input("seek").valueAsNumber, head.durationUs);
    };
    input("seek").onchange = () => { this.seeking = false; };
    input("speed").onchange = () => head.setSpeed(Number(input("speed").value), nowUs());
    input("loop").onchange = () => { head.loop = input("loop").checked; };
    for (const angle of ANGLES) input(angle).oninput = turn;
    $("straight").onclick = straight;
    $("sound").onclick = () => {
      this.speech.muted = !this.speech.muted;
      $("sound").textContent = this.speech.muted ? "Sound on" : "Sound off";
      $("sound").setAttribute("aria-pressed", String(this.speech.muted));
    };
    $("copy").onclick = () => {
      input("embed").select();
      navigator.clipboard?.writeText(input("embed").value).then(() => { $("copy").textContent = "Copied"; }, () => {});
    };
    input("file").onchange = () => {
      const [file] = input("file").files ?? [];
      if (file) this.#give(file);
      input("file").value = ""; // the same file may be chosen again
    };
    $("own").onclick = () => this.#giveBack();
    if (!embedded) {
      const stage = $("stage");
      const over = (/** @type {boolean} */ is) => stage.classList.toggle("over", is);
      stage.ondragover = (event) => {
        event.preventDefault();
        over(true);
      };
      stage.ondragleave = () => over(false);
      stage.ondrop = (event) => {
        event.preventDefault();
        over(false);
        const [file] = event.dataTransfer?.files ?? [];
        if (file && !input("file").disabled) this.#give(file);
      };
    }
    /** @type {Record<string, () => void>} */
    const keys = {
      " ": toggle,
      ArrowLeft: () => skip(-STEP_US),
      ArrowRight: () => skip(STEP_US),
      l: () => input("loop").click(),
      r: straight,
      m: () => $("sound").click(),
    };
    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const target = /** @type {HTMLInputElement} */ (event.target);
      // A step of the bar itself is a hundredth of a second: there too an arrow is to mean a second.
      const kind = target === input("seek") ? "" : target.type ?? "";
      const own = { " ": ["button", "checkbox", "file", "select-one", "text"], ArrowLeft: ["range", "select-one", "text"], ArrowRight: ["range", "select-one", "text"] };
      const taken = own[/** @type {keyof typeof own} */ (event.key)]?.includes(kind);
      if (taken || (["select-one", "text"].includes(kind) && event.key.length === 1)) return;
      const does = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (!does) return;
      event.preventDefault();
      does();
    });
    setInterval(() => this.#measure(), 250);
  }

  /** Pictures a second and mean payload bits a frame over the last second. */
  #measure() {
    const since = performance.now() - WINDOW_MS;
    this.recent = this.recent.filter(([when]) => when >= since);
    const { length } = this.recent;
    $("fps").textContent = length ? String(length) : "–";
    if (!length) return;
    const bits = this.recent.reduce((sum, [, one]) => sum + one, 0) / length;
    $("bits").textContent = bits.toFixed(0);
    $("rate").textContent = kbps(bits, this.fps);
  }
}

/** @param {string} text */
function say(text) {
  $("notice").textContent = text;
}

/**
 * @param {number} us
 * @param {number} durationUs
 */
function showPosition(us, durationUs) {
  // The bar moves with the clock, ten times a second: drawn anew with every refresh it takes time from the pictures.
  if (showClock(us / 1e6, durationUs)) input("seek").value = String(us / 1e6);
}

/**
 * Whether it has changed.
 * @param {number} seconds
 * @param {number} durationUs
 */
function showClock(seconds, durationUs) {
  const clock = (/** @type {number} */ s) => `${Math.floor(s / 60)}:${(s % 60).toFixed(1).padStart(4, "0")}`;
  const text = `${clock(seconds)} / ${clock(durationUs / 1e6)}`;
  if ($("clock").textContent === text) return false;
  $("clock").textContent = text;
  input("seek").setAttribute("aria-valuetext", text);
  return true;
}

/**
 * @param {number} bits a frame
 * @param {number} fps
 */
function kbps(bits, fps) {
  return ((bits * fps) / 1000).toFixed(2);
}

/** @param {string} name */
async function file(name) {
  const reply = await fetch(new URL(name, import.meta.url));
  if (!reply.ok) throw new BadInput(`${name} cannot be read: ${reply.status} ${reply.statusText}`);
  return new Uint8Array(await reply.arrayBuffer());
}

/** @param {Blob} picture */
function showSource(picture) {
  const image = /** @type {HTMLImageElement} */ ($("source-picture"));
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(picture);
}

/**
 * @param {Pixels} pixels RGBA
 * @param {number} side
 */
function showPixels(pixels, side) {
  const drawn = Object.assign(document.createElement("canvas"), { width: side, height: side });
  drawn.getContext("2d")?.putImageData(new ImageData(new Uint8ClampedArray(pixels), side, side), 0, 0);
  drawn.toBlob((blob) => { if (blob) showSource(blob); });
}

/**
 * A picture as the networks see it and, where the source picture is `large`, at twice that size.
 * @param {ImageBitmap} bitmap
 * @param {number} size
 * @param {boolean} large
 */
function seen(bitmap, size, large) {
  const twice = bitmap.width >= 2 * size;
  const detail = large || twice ? pixelsOf(bitmap, 2 * size, 2 * size) : null;
  return { small: twice && detail ? halved(detail) : pixelsOf(bitmap, size, size), detail: large ? detail : null };
}
