// What this page talks to: the program of the call, beside it on this computer. Everything that a page of another kind
// would do otherwise is named here.

import { at } from "./common/enter.js";

export { NO_KEY, at } from "./common/enter.js";
export { Connection, OWN_PICTURE, REMOTE_PICTURE } from "./connection.js";
export { Media } from "./media.js";
export { PictureCanvas } from "./pictures.js";

// Sentences about the program itself.
export const TEXTS = {
  over: "Choose Leave to stop kilocall on this computer.",
  stopped: {
    title: "kilocall has stopped",
    text: "Start it again on this computer, and open the address that it prints.",
  },
  recorded: ({ stream }) => `The recording is in ${stream}`,
};

// Makes the face of a picture file the own source picture; throws an Error for people.
export async function usePicture(file) {
  let reply;
  try {
    reply = await fetch(at(`/api/source?name=${encodeURIComponent(file.name)}`), { method: "POST", body: file });
  } catch {
    throw new Error("The picture did not arrive. Is kilocall still running?");
  }
  if (!reply.ok) throw new Error((await reply.json()).error);
}
