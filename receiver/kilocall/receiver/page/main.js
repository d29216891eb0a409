// The page: every control sends a command, and shows what the program says the state is.

import { NO_KEY, at } from "./common/enter.js";
import { LiveSocket } from "./common/live.js";
import { Screen } from "./screen.js";
import { Sound } from "./sound.js";

const $ = (id) => document.getElementById(id);
const ANGLES = ["yaw", "pitch", "roll"];
const MOST_KEY_MARKS = 200;
const STEP_S = 1;
// Frame u32, time in microseconds u64, bits a frame f32, milliseconds that rendering took f32, whether it is what
// the camera saw u8.
const HEAD = {
  bytes: 21,
  read: (view) => ({
    frame: view.getUint32(0),
    timeUs: Number(view.getBigUint64(4)),
    bits: view.getFloat32(12),
    madeMs: view.getFloat32(16),
    camera: view.getUint8(20) !== 0,
  }),
};

let stream = null;
let state = null;
let camera = false; // what the speaker's camera saw is shown
let seeking = false; // the bar is being dragged: it must not jump back to what is shown

const screen = new Screen($("picture"), drawn);
const sound = new Sound($("speech"), $("sound"));
const connection = new LiveSocket(HEAD, {
  stream(facts) {
    stream = facts;
    $("seek").max = facts.duration_us / 1e6;
    $("overall").textContent =
      `${facts.bits_per_frame.toFixed(1)} bits a frame, ${kbps(facts.bits_per_frame)} kbit/s at ${number(facts.fps)} frames/s`;
    document.title = `${facts.name} – kilocall replay`;
    $("notice").textContent = facts.damage ? `The stream breaks off: ${facts.damage}` : "";
    sound.open(facts.sound ? at("/sound.ogg") : null);
    markKeys(facts);
    label();
  },
  state(next) {
    const newSource = !state || state.source_number !== next.source_number;
    state = next;
    $("play").textContent = next.playing ? "Pause" : "Play";
    $("play").setAttribute("aria-pressed", String(next.playing));
    $("loop").checked = next.loop;
    $("speed").value = String(next.speed);
    for (const angle of ANGLES) if (document.activeElement !== $(angle)) $(angle).value = next.view[angle];
    showAngles();
    $("own").disabled = !next.relative;
    if (next.problem) $("notice").textContent = `Playing ended: ${next.problem}`;
    if (!seeking) showPosition(next.position_us);
    sound.follow(next.position_us, next);
    if (newSource) $("source-picture").src = at(`/source.jpg?n=${next.source_number}-${Date.now()}`);
    label();
  },
  error({ text }) {
    $("notice").textContent = text;
  },
  picture(picture) {
    screen.put(picture);
  },
  locked() {
    $("notice").textContent = NO_KEY;
  },
  closed(reason) {
    $("notice").textContent = reason ? `Not connected: ${reason}` : "Not connected: the program is not running any more";
  },
});

function label() {
  if (!stream || !state) return;
  $("picture").ariaLabel = camera ? "What the speaker’s camera saw" : "The speaker, reconstructed";
  if (camera) {
    $("badge-title").textContent = "Camera, not reconstructed.";
    $("badge-text").textContent = `From ${stream.name}.`;
    return;
  }
  const from = state.pictures > 1 ? `${state.pictures} pictures` : "one picture";
  $("badge-title").textContent = `Reconstructed from ${from}.`;
  $("badge-text").textContent = `Source: ${state.source ?? "the stream’s own picture"}, from ${stream.name}.`;
}

function drawn(picture) {
  $("frame").textContent = `${picture.frame} of ${stream?.frames ?? "–"}`;
  if (!seeking) showPosition(picture.timeUs);
  if (picture.camera !== camera) {
    ({ camera } = picture);
    label();
  }
  if (state) sound.follow(picture.timeUs, state);
}

function showPosition(us) {
  $("seek").value = us / 1e6;
  showClock(us / 1e6);
}

function showClock(seconds) {
  const text = `${clock(seconds)} / ${clock((stream?.duration_us ?? 0) / 1e6)}`;
  $("clock").textContent = text;
  $("seek").setAttribute("aria-valuetext", text);
}

function showAngles() {
  for (const angle of ANGLES) $(angle).nextElementSibling.textContent = `${$(angle).value}°`;
}

function markKeys(facts) {
  const marks = facts.keys_us.length > MOST_KEY_MARKS ? [] : facts.keys_us;
  $("keys").replaceChildren(...marks.map((us) => {
    const mark = document.createElement("i");
    mark.style.left = `${(100 * us) / facts.duration_us}%`;
    return mark;
  }));
}

const clock = (s) => `${Math.floor(s / 60)}:${(s % 60).toFixed(1).padStart(4, "0")}`;
const kbps = (bits) => ((bits * stream.fps) / 1000).toFixed(2);
const number = (n) => String(Math.round(n * 100) / 100);

setInterval(() => {
  const measured = screen.measure();
  $("fps").textContent = measured ? measured.fps.toFixed(0) : "–";
  if (!measured || !stream) return;
  $("bits").textContent = measured.bits.toFixed(0);
  $("rate").textContent = kbps(measured.bits);
}, 250);

const toggle = () => connection.send({ do: state?.playing ? "pause" : "play" });
const seek = (seconds) => {
  const end = (stream?.duration_us ?? 0) / 1e6;
  connection.send({ do: "seek", time_us: Math.round(Math.min(Math.max(seconds, 0), end) * 1e6) });
};
const turn = () => {
  showAngles();
  connection.send({ do: "turn", ...Object.fromEntries(ANGLES.map((angle) => [angle, Number($(angle).value)])) });
};
const straight = () => {
  for (const angle of ANGLES) $(angle).value = 0;
  turn();
};

$("play").onclick = toggle;
$("seek").oninput = () => {
  seeking = true;
  showClock(Number($("seek").value));
  seek(Number($("seek").value));
};
$("seek").onchange = () => { seeking = false; };
$("speed").onchange = () => connection.send({ do: "speed", speed: Number($("speed").value) });
$("loop").onchange = () => connection.send({ do: "loop", loop: $("loop").checked });
for (const angle of ANGLES) $(angle).oninput = turn;
$("straight").onclick = straight;
$("own").onclick = () => connection.send({ do: "own_source" });

$("file").onchange = async () => {
  const file = $("file").files[0];
  $("file").value = ""; // the same file can be chosen again
  if (!file) return;
  $("source-error").textContent = "";
  if (stream && file.size > stream.largest_upload) {
    $("source-error").textContent = `${file.name} has more than ${stream.largest_upload / 2 ** 20} MiB, which is the most allowed`;
    return;
  }
  try {
    const reply = await fetch(at(`/source?name=${encodeURIComponent(file.name)}`), { method: "POST", body: file });
    if (!reply.ok) $("source-error").textContent = (await reply.json()).error;
  } catch {
    $("source-error").textContent = "the program did not answer";
  }
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  // A step of the bar itself is a hundredth of a second: there too an arrow is to mean a second.
  const kind = event.target === $("seek") ? "" : event.target.type ?? "";
  const own = { " ": ["button", "checkbox", "select-one", "file"], ArrowLeft: ["range", "select-one"], ArrowRight: ["range", "select-one"] };
  if (own[event.key]?.includes(kind) || (kind === "select-one" && event.key.length === 1)) return;
  const here = Number($("seek").value);
  const does = {
    " ": toggle,
    ArrowLeft: () => seek(here - STEP_S),
    ArrowRight: () => seek(here + STEP_S),
    l: () => connection.send({ do: "loop", loop: !state?.loop }),
    r: straight,
    m: () => $("sound").click(),
  }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!does) return;
  event.preventDefault();
  does();
});
