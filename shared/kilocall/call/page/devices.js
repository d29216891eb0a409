// Microphone and camera of this computer, as the browser gives them.

export const MICROPHONE = { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true };
export const CAMERA = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 }, facingMode: "user" };

// Whether these may be used without asking again.
export async function allowed(names) {
  try {
    const answers = await Promise.all(names.map((name) => navigator.permissions.query({ name })));
    return answers.every(({ state }) => state === "granted");
  } catch {
    return false; // this browser does not tell
  }
}

// The first track that fits `wanted`; null where there is none, and then problem(text).
export async function firstTrack(wanted, name, problem) {
  try {
    return (await navigator.mediaDevices.getUserMedia(wanted)).getTracks()[0];
  } catch (error) {
    problem(`${name} is not in use: ${why(error)}.`);
    return null;
  }
}

function why(error) {
  return {
    NotAllowedError: "this page may not use it; the browser asks beside the address",
    NotFoundError: "there is none",
    NotReadableError: "another program has it",
  }[error.name] ?? error.message;
}
