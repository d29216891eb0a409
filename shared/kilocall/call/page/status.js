// What a state of the call is called in plain words.

import { NO_KEY, TEXTS } from "./program.js";

const PHASES = {
  unreachable: { title: "The meeting point cannot be reached", text: "It is tried again and again." },
  looking: { title: "Looking for the meeting point", text: "" },
  alone: { title: "Waiting for the other person", text: "Send them this link. You will see them as soon as they join.", link: true },
  connecting: { title: "Connecting", text: "The other person is here. One moment." },
  lost: { title: "The connection was lost", text: "Trying to reach the other person again. There is nothing you have to do." },
  ended: { title: "The call is over", text: TEXTS.over },
  left: { title: "The call is over", text: "You can close this page." },
  refused: { title: "This call cannot be joined", text: "" },
};

// What stands over the remote picture, or null when nothing has to. `seen`: a picture of them is on the screen.
export function callStatus({ locked, connected, left, state, seen }) {
  if (left) return PHASES.left;
  if (locked) return { title: "This page is locked", text: NO_KEY };
  if (!connected) {
    if (state?.phase === "ended") return told({ ...state, phase: "left" });
    if (state?.phase === "refused") return told(state);
    return state ? TEXTS.stopped : { title: "Starting", text: "" };
  }
  if (!state) return { title: "Starting", text: "" };
  if (state.phase !== "open") return told(state);
  if (state.remote.camera_off) return { title: "Their camera is off", text: "You can still hear each other." };
  return seen ? null : { title: "Connected", text: "Waiting for the first picture of them." };
}

function told({ phase, reason, trouble, in_room: inRoom }) {
  // The link is good for nothing before the room is there.
  if (phase === "alone" && trouble) {
    const why = trouble.replace(/^[^:]*: /, "");
    return { ...PHASES.unreachable, text: `${sentence(why)} ${PHASES.unreachable.text}` };
  }
  if (phase === "alone" && !inRoom) return PHASES.looking;
  const words = PHASES[phase] ?? PHASES.connecting;
  return { ...words, text: [reason && phase !== "alone" ? sentence(reason) : "", words.text].filter(Boolean).join(" ") };
}

// A small note on their picture.
export function remoteNote({ phase, remote, slow }) {
  if (phase !== "open" || remote.camera_off) return "";
  if (!remote.reconstructed) return "";
  if (remote.face === false) return "They are out of view for a moment. The picture moves again when they are back.";
  return slow?.shows ? sentence(slow.shows) : "";
}

// A small note on the own preview.
export function ownNote({ state, face, needsStart }) {
  if (needsStart) return "Your camera is not on yet";
  if (state.camera_off) return "Your camera is off";
  if (state.camera?.problem) return `${sentence(state.camera.problem)} They see you standing still.`;
  if (state.camera_view?.shown === "asked") return "They see what your camera sees, as it is";
  if (state.camera_view?.shown === "away") return "Your face is not in view, so they see what your camera sees";
  if (face === false) return "Your face is not in view, so they see you standing still";
  return state.slow?.sends ? sentence(state.slow.sends) : "";
}

export function badgeText({ source_taken_at: takenAt, pictures = 1, reconstructed = true, layered = false } = {}) {
  if (!reconstructed) return "Camera, not reconstructed";
  if (!takenAt) return "Reconstructed from one picture, not filmed";
  const video = layered ? " and a little video" : "";
  if (pictures > 1) return `Reconstructed from ${pictures} pictures${video}, the first taken at ${takenAt}`;
  return `Reconstructed from a picture taken at ${takenAt}${video}`;
}

// What is said about the words to compare.
export function trustText({ verified, expected }) {
  if (verified) return "No: you have compared words with the other side on this link. Those of this connection are:";
  const changed = expected
    ? "You have compared words on this link before, but the other side is another computer now, or somebody else. "
    : "";
  return `${changed}Read these out: the other side must see the same. If it does not, leave the call.`;
}

function sentence(text) {
  const trimmed = text.trim();
  return /[.!?]$/.test(trimmed) ? upper(trimmed) : `${upper(trimmed)}.`;
}

function upper(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
