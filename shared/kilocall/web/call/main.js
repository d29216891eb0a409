// The page of a call in the browser: who opens the link is in it.

import { KilocallError } from "../errors.js";
import { findRoom } from "../link.js";

const notice = /** @type {HTMLElement} */ (document.getElementById("notice"));

try {
  const { room } = findRoom(location.href);
  notice.textContent = `Room ${room}`;
} catch (error) {
  if (!(error instanceof KilocallError)) throw error;
  notice.textContent = error.message;
}
