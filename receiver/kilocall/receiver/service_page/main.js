// The page of the receiver service: the stream, once the page has been let in.

import { NO_KEY, at, enter } from "./common/enter.js";

const RETRY_MS = 1000;
const STATE_MS = 2000;
const $ = (id) => document.getElementById(id);

$("stream").onerror = () => setTimeout(show, RETRY_MS, "The program is not running any more, or has as many viewers as it serves.");

async function show(reason) {
  tell(reason);
  let entered;
  try {
    entered = await enter();
  } catch {
    setTimeout(show, RETRY_MS, reason);
    return;
  }
  if (!entered) {
    tell(NO_KEY);
    return;
  }
  $("numbers").href = at("/state");
  $("stream").src = at(`/stream.mjpg?n=${Date.now()}`); // another address each time: it is to be asked for anew
  $("stream").hidden = false;
  $("notice").hidden = true;
}

function tell(text) {
  $("notice").textContent = text;
  $("notice").hidden = false;
  $("stream").hidden = true;
}

async function label() {
  if ($("stream").hidden) return;
  const reply = await fetch(at("/state")).catch(() => null); // what is wrong is said where the stream ends
  if (!reply?.ok) return;
  const { layered } = await reply.json();
  $("badge").textContent = `Reconstructed from one picture${layered ? " and a little video" : ""}.`;
}

show("connecting");
setInterval(label, STATE_MS);
