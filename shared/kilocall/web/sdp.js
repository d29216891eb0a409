// What is changed in descriptions: of this side's what is sent less of, of the other side's how this side's speech is
// encoded. A browser encodes as the other side's description asks it to.

/**
 * What is sent of this side's description. Without header extensions each audio packet is 8 bytes shorter, 1 kbit/s at
 * 60 ms; transport feedback is of no use without them.
 * @param {string} sdp
 */
export function plain(sdp) {
  const spare = /^a=(extmap|extmap-allow-mixed|rtcp-fb:\d+ transport-cc)\b/;
  return withLines(sdp, (line) => (spare.test(line) ? [] : [line]));
}

/**
 * The other side's description as the browser is given it: Opus mono, at most at this rate, in packets this long, silence
 * not sent.
 * @param {string} sdp
 * @param {{ bitrateBps: number, packetMs: number }} speech
 */
export function withSpeech(sdp, { bitrateBps, packetMs }) {
  const payload = /^a=rtpmap:(\d+) opus\/48000/im.exec(sdp)?.[1];
  if (payload === undefined) return sdp;
  const settings = `stereo=0;sprop-stereo=0;useinbandfec=0;usedtx=1;maxaveragebitrate=${bitrateBps}`;
  const times = /^a=(max|min)?ptime:/;
  return withLines(sdp, (line) => {
    if (times.test(line) || line.startsWith(`a=fmtp:${payload} `)) return [];
    if (!line.startsWith(`a=rtpmap:${payload} `)) return [line];
    return [line, `a=fmtp:${payload} ${settings}`, `a=ptime:${packetMs}`, "a=maxptime:120"];
  });
}

/**
 * @param {string} sdp
 * @param {(line: string) => string[]} change
 */
function withLines(sdp, change) {
  const lines = sdp.split(/\r?\n/).filter((line) => line);
  return lines.flatMap(change).map((line) => `${line}\r\n`).join("");
}
