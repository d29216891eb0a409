// Lets a page in. The address that kilocall printed has a key behind its #. The program takes it once, and gives a
// cookie and the path that this cookie is for: what the page asks for begins with it.

const PLACE = "kilocall-place";

export const NO_KEY = "This page has no key. Open the address that kilocall printed in the terminal.";

let key = location.hash.slice(1);
let place = null;

// Not to be seen over a shoulder, nor copied with the address.
if (key) history.replaceState(null, "", location.pathname + location.search);
// The address of a program that was started anew, opened where the one before was: browsers load nothing for that.
addEventListener("hashchange", () => location.reload());

// Whether this page has been let in; throws when no program answers.
export async function enter() {
  if (key) {
    const reply = await fetch("/api/enter", { method: "POST", body: key });
    key = "";
    if (reply.ok) localStorage.setItem(PLACE, await reply.text());
  }
  place = localStorage.getItem(PLACE); // a reload, or another tab
  return place !== null && (await fetch(at("/api/entered"))).ok;
}

// Where a path of the program is for this page, once it has been let in.
export function at(path) {
  return `${place}${path}`;
}
