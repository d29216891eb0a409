// The page: puts the parts together. Every control sends a command; what is shown is what the node says.

import { Announcer } from "./announce.js";
import { Calibration } from "./calibration.js";
import { Keyboard } from "./keyboard.js";
import { NumbersPanel } from "./numbers.js";
import { Overlay } from "./overlay.js";
import { Connection, Media, OWN_PICTURE, PictureCanvas, REMOTE_PICTURE, TEXTS, at } from "./program.js";
import { Sources } from "./sources.js";
import { badgeText, callStatus, ownNote, remoteNote, trustText } from "./status.js";
import { HeadTurn } from "./turn.js";

const $ = (id) => document.getElementById(id);
const COPIED_MS = 2500;
const LASTING_MS = 2000;
const OFFER_MS = 4000; // so long the node may look for a source picture by itself
const CAMERAS = 8; // numbers to choose from; a computer does not tell which it has
const OVER = ["ended", "refused"];

let hello = null;
let state = null;
let connected = false;
let locked = false; // the page has no key
let left = false; // by this page's button
let ownFace; // undefined until the node says
let offer = 0; // the timer of calibration that opens by itself, once

const announcer = new Announcer($("announcer"));
const remote = new PictureCanvas($("remote-picture"), render);
const own = new PictureCanvas($("own-picture"), render);
const numbers = new NumbersPanel($("numbers"));
const turn = new HeadTurn({ yaw: $("yaw"), pitch: $("pitch"), roll: $("roll") }, $("straight"), (view) => connection.ask("view", view));
const media = new Media($("speech"), {
  changed: render,
  problem,
  late: (ms) => connection.ask("sound_behind", { ms: Math.min(Math.max(0, ms - remote.drawDelayMs()), 2000) }),
});
const sources = new Sources(
  { current: $("source-picture"), caption: $("source-caption"), file: $("file"), recent: $("recent"), problem: $("source-problem") },
  {
    use: (id) => connection.ask("use_source", { id }),
    told: (text) => announcer.say(text),
    changed() {
      if (calibration.active && calibration.asked) announcer.say("The picture was taken");
      calibration.taken();
    },
  },
);
const calibration = new Calibration(
  new Overlay($("overlay")),
  {
    panel: $("calibration"),
    advice: $("advice"),
    count: $("count"),
    checks: { one: $("check-one"), eyes: $("check-eyes"), sharp: $("check-sharp") },
    take: $("take"),
    cancel: $("cancel"),
  },
  {
    opened: () => calibrating(true),
    closed: () => calibrating(false),
    take: () => connection.ask("take_source"),
  },
);
const connection = new Connection({
  opened() {
    connected = true;
    connection.ask("visible", { on: !document.hidden });
    if (calibration.active) connection.ask("calibrate", { on: true });
    render();
  },
  locked() {
    locked = true;
    render();
  },
  closed() {
    connected = false;
    numbers.clear();
    render();
  },
  picture(picture) {
    if (picture.kind === REMOTE_PICTURE) remote.put(picture);
    else if (picture.kind === OWN_PICTURE && !state?.camera_off) own.put(picture);
  },
  hello(next) {
    const again = hello !== null;
    left = false;
    hello = next;
    $("link").value = hello.link;
    $("about").textContent = [hello.family, `${hello.size} × ${hello.size}`, `kilocall ${hello.version}`].filter(Boolean).join(", ");
    if (again) media.again();
    else media.allowed(fromBrowser()).then((yes) => { if (yes) start(); });
    render();
  },
  state(next) {
    const before = state;
    state = next;
    if (before) tellChanges(before, next);
    follow(before, next);
    render();
  },
  numbers: (next) => numbers.show(next),
  overlay(seen) {
    ownFace = seen.face;
    calibration.see(seen);
    render();
  },
  sources: (next) => sources.show(next),
  recorded: (made) => showMessage(TEXTS.recorded(made)),
  error({ text }) {
    if (!calibration.refuse(text)) problem(text);
  },
});

function fromBrowser() {
  return hello?.camera === "browser";
}

function follow(before, { phase, muted, camera_off: cameraOff, camera_view: cameraView, own_source_at: takenAt, remote_view: view }) {
  media.mute(muted);
  media.turnCameraOff(cameraOff);
  sources.tell({ takenAt, camera: Boolean(cameraView?.available) });
  turn.follow(view);
  if (cameraOff) {
    own.clear();
    calibration.close();
  }
  if (OVER.includes(phase)) {
    calibration.close();
    if (before?.phase !== phase) media.stop();
  }
  if (phase === "alone" && before?.phase !== "alone") remote.clear();
  offer ||= setTimeout(offerCalibration, OFFER_MS);
}

function offerCalibration() {
  if (sources.current) return;
  if (waitsForCamera() || !connected) offer = setTimeout(offerCalibration, OFFER_MS);
  else if (!state.camera_off && !OVER.includes(state.phase)) calibration.open(false);
}

function waitsForCamera() {
  return fromBrowser() && media.state === "off";
}

function tellChanges(before, next) {
  if (before.muted !== next.muted) announcer.say(next.muted ? "Your microphone is off" : "Your microphone is on");
  if (before.camera_off !== next.camera_off) announcer.say(next.camera_off ? "Your camera is off" : "Your camera is on");
  if (!before.trust?.verified && next.trust?.verified) announcer.say("Verified: nobody is in between");
  if (before.remote.reconstructed !== next.remote.reconstructed) {
    announcer.say(next.remote.reconstructed ? "They are reconstructed from a picture again" : "You see what their camera sees");
  }
  if (before.recording !== next.recording) announcer.say(next.recording ? "Recording" : "Recording stopped");
}

function render() {
  renderStage();
  renderTrust();
  renderControls();
  renderOwn();
}

function renderStage() {
  const seen = !remote.empty;
  const status = callStatus({ locked, connected, left, state, seen });
  $("status").hidden = !status;
  $("status-title").textContent = status?.title ?? "";
  $("status-text").textContent = status?.text ?? "";
  $("status-link").hidden = !(status?.link && hello?.link);
  $("remote").classList.toggle("dim", Boolean(status));
  $("remote").classList.toggle("empty", !seen);
  const note = state && !status ? remoteNote(state) : "";
  $("remote-note").textContent = note;
  $("badge-text").textContent = badgeText(state?.remote);
  $("remote-picture").ariaLabel = state && !state.remote.reconstructed
    ? "What the other person's camera sees" : "The other person, reconstructed";
  $("badge-button").disabled = !seen && !state?.remote.source_taken_at;
  if ($("badge-button").disabled) showSource(false);
  document.title = status && hello ? `${status.title} – kilocall` : "kilocall";
  const phase = status ? status.title : note || (state ? "You can see each other" : "");
  if (phase !== renderStage.said) {
    renderStage.said = phase;
    announcer.say(phase);
  }
}

function renderTrust() {
  const trust = state?.trust;
  const known = Boolean(connected && trust?.words.length);
  const before = $("trust").hidden;
  $("trust").hidden = !known;
  $("badge-verified").hidden = !known || !trust.verified;
  if (!known) return;
  const text = trustText(trust);
  if ($("trust-text").textContent !== text) $("trust-text").textContent = text;
  if ($("words").textContent !== trust.words.join("")) {
    $("words").replaceChildren(...trust.words.map((word) => Object.assign(document.createElement("li"), { textContent: word })));
  }
  $("same").hidden = trust.verified;
  if (before && trust.expected && !trust.verified) announcer.say(text);
}

function renderControls() {
  const running = connected && state !== null && !OVER.includes(state.phase);
  for (const id of ["mute", "camera", "show-camera", "new-picture", "record"]) $(id).disabled = !running;
  $("leave").disabled = !connected || left; // after the other person's goodbye as well: kilocall still runs then
  press("mute", state?.muted, "Mute", "Unmute");
  press("camera", state?.camera_off, "Camera off", "Camera on");
  press("show-camera", state?.camera_view?.shown === "asked", "Show camera", "Stop showing");
  $("show-camera").hidden = !state?.camera_view?.available;
  $("show-camera").disabled ||= Boolean(state?.camera_off) || waitsForCamera();
  press("record", state?.recording, "Record", "Stop");
  $("new-picture").disabled ||= Boolean(state?.camera_off) || waitsForCamera();
  $("new-picture-here").disabled = $("new-picture").disabled;
  $("recording").hidden = !state?.recording;
  const used = state?.camera;
  $("camera-choice").hidden = fromBrowser() || ((used?.number ?? null) === null && !used?.problem);
  $("camera-number").disabled = !running;
  if (document.activeElement !== $("camera-number")) $("camera-number").value = String(used?.number ?? "");
  const virtual = state?.virtual_camera;
  $("virtual").disabled = !running || !virtual?.available;
  $("virtual").checked = Boolean(virtual?.on);
  $("virtual-reason").textContent = virtual?.reason ?? "";
  const soundDone = !running || media.state === "on";
  if (soundDone && document.activeElement === $("sound-button")) $("mute").focus(); // the keyboard's place goes away
  $("sound").hidden = soundDone;
  $("sound-button").textContent = media.state === "silent" ? "Turn on the sound"
    : fromBrowser() ? "Turn on camera and microphone" : "Turn on microphone and sound";
}

// A switch: its words say what pressing it does, its look says what is the case.
function press(id, on, off, undo) {
  $(id).dataset.on = String(Boolean(on));
  const label = $(id).querySelector("span");
  const text = on ? undo : off;
  if (label.textContent !== text) label.textContent = text;
}

function renderOwn() {
  const note = state ? ownNote({ state, face: state.own_face ?? ownFace, needsStart: waitsForCamera() }) : "";
  $("own-note").textContent = calibration.active ? "" : note;
  if (note === renderOwn.note) return;
  renderOwn.note = note;
  clearTimeout(renderOwn.timer);
  // A face that is gone for a moment is nothing to read out.
  renderOwn.timer = setTimeout(() => { if (!calibration.active) announcer.say(note); }, LASTING_MS);
}

function calibrating(on) {
  connection.ask("calibrate", { on });
  $("own").classList.toggle("calibrating", on);
  $("calibration").hidden = !on;
  $("new-picture").setAttribute("aria-expanded", String(on));
  if (!on) ownFace = undefined; // what was seen last says nothing about later
  render();
}

function showMessage(text, kind = "news") {
  $("message").dataset.kind = kind;
  $("message-text").textContent = text;
  $("message").hidden = false;
}

function problem(text) {
  showMessage(text, "problem");
}

function leave() {
  connection.ask("hang_up");
  const before = state;
  left = true;
  state = { ...state, phase: "ended", reason: "" }; // the node ends now and may not get to say so
  follow(before, state);
  render();
}

function showSource(on) {
  $("remote-source").hidden = !on;
  $("badge-button").setAttribute("aria-expanded", String(on));
  if (on) $("remote-source-picture").src = at(`/api/remote-source.jpg?n=${Date.now()}`);
}

async function copyLink() {
  if (!hello) return;
  try {
    await navigator.clipboard.writeText(hello.link);
  } catch {
    $("link").focus();
    $("link").select();
    announcer.say("The link is selected: copy it with your browser");
    return;
  }
  announcer.say("The link was copied");
  for (const id of ["copy", "copy-here"]) {
    const label = $(id).querySelector("span");
    label.textContent = "Copied";
    setTimeout(() => { label.textContent = "Copy link"; }, COPIED_MS);
  }
}

function start() {
  media.start(fromBrowser());
}

const ifEnabled = (id, act) => () => { if (!$(id).disabled) act(); };
const mute = ifEnabled("mute", () => {
  media.mute(!state.muted); // at once, not when the answer comes
  connection.ask("mute", { on: !state.muted });
});
const camera = ifEnabled("camera", () => connection.ask("camera", { on: state.camera_off }));
const showCamera = ifEnabled("show-camera", () => {
  if (!$("show-camera").hidden) connection.ask("show_camera", { on: state.camera_view.shown !== "asked" });
});
const record = ifEnabled("record", () => connection.ask("record", { on: !state.recording }));
const newPicture = ifEnabled("new-picture", () => {
  if (calibration.active) calibration.close();
  else calibration.open(true);
});
const toggleNumbers = () => { $("numbers").open = !$("numbers").open; };
const help = () => $("help").showModal();

$("mute").onclick = mute;
$("camera").onclick = camera;
$("show-camera").onclick = showCamera;
$("record").onclick = record;
$("new-picture").onclick = newPicture;
$("new-picture-here").onclick = newPicture;
$("copy").onclick = copyLink;
$("copy-here").onclick = copyLink;
$("link").onfocus = () => $("link").select();
$("leave").onclick = leave;
$("help-button").onclick = help;
$("sound-button").onclick = start;
$("same").onclick = () => connection.ask("compared", { words: state.trust.words });
$("badge-button").onclick = () => showSource($("remote-source").hidden);
$("message-close").onclick = () => { $("message").hidden = true; };
for (let number = 0; number < CAMERAS; number++) $("camera-number").add(new Option(String(number), String(number)));
$("camera-number").onchange = () => connection.ask("choose_camera", { number: Number($("camera-number").value) });
$("virtual").onchange = () => connection.ask("virtual_camera", { on: $("virtual").checked });
document.addEventListener("visibilitychange", () => connection.ask("visible", { on: !document.hidden }));

new Keyboard({
  m: mute,
  v: camera,
  w: showCamera,
  c: newPicture,
  r: record,
  l: copyLink,
  s: () => turn.reset(),
  n: toggleNumbers,
  h: help,
  "?": help,
}, $("keys-on"));

// On a small window the panels would push each other out of sight: the less needed ones start closed.
if (matchMedia("(max-width: 60rem)").matches) for (const id of ["turn", "numbers"]) $(id).open = false;

window.kilocall = { stats: () => ({ ...remote.stats(), own: own.stats(), media: media.state, soundLateMs: media.lateMs }) };
render();
