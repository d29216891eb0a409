// Bytes as text and numbers, and the sums over them: CRC-32 as zlib has it, SHA-256, and HMAC and HKDF made of it.

/** @param {Uint8Array} data */
export function hex(data) {
  return Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {string} text */
export function fromHex(text) {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

/**
 * Without padding.
 * @param {Uint8Array} data
 */
export function base64url(data) {
  return btoa(String.fromCharCode(...data)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/**
 * Null for what is no base64url without padding; bits behind the last byte are let through, as Python does.
 * @param {string} text
 */
export function fromBase64url(text) {
  if (!/^[A-Za-z0-9_-]*$/.test(text) || text.length % 4 === 1) return null;
  return Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));
}

/** @param {string} text */
export function utf8(text) {
  return new TextEncoder().encode(text);
}

/** @param {readonly Uint8Array[]} parts */
export function joined(parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/**
 * A big-endian number below 2^53.
 * @param {Uint8Array} data
 */
export function unsigned(data) {
  return data.reduce((value, byte) => value * 256 + byte, 0);
}

/**
 * @param {Uint8Array} a
 * @param {Uint8Array} b
 */
export function same(a, b) {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}

/**
 * As `same`, in a time that tells nothing of where they differ.
 * @param {Uint8Array} a
 * @param {Uint8Array} b
 */
export function sameSecret(a, b) {
  let differ = a.length ^ b.length;
  for (let n = 0; n < a.length; n++) differ |= a[n] ^ b[n];
  return differ === 0;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, start) => {
  let crc = start;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1;
  return crc;
});

/** @param {Uint8Array} data */
export function crc32(data) {
  let crc = 0xffffffff;
  for (let at = 0; at < data.length; at++) crc = CRC_TABLE[(crc ^ data[at]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

const PRIMES = firstPrimes(64);
const SHA_START = PRIMES.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)));
const SHA_ROUNDS = Uint32Array.from(PRIMES, (prime) => fraction(Math.cbrt(prime)));

/**
 * SHA-256 as 64 hexadecimal digits. The browser's own waits, and is not there on a page without https.
 * @param {Uint8Array} data
 */
export function sha256(data) {
  const padded = new Uint8Array(((data.length + 8) >> 6 << 6) + 64);
  padded.set(data);
  padded[data.length] = 128;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 8, Math.floor(data.length / 2 ** 29));
  view.setUint32(padded.length - 4, data.length << 3);
  const state = Uint32Array.from(SHA_START);
  const words = new Uint32Array(64);
  for (let block = 0; block < padded.length; block += 64) {
    for (let n = 0; n < 16; n++) words[n] = view.getUint32(block + 4 * n);
    for (let n = 16; n < 64; n++) {
      const x = words[n - 15];
      const y = words[n - 2];
      const low = turned(x, 7) ^ turned(x, 18) ^ (x >>> 3);
      const high = turned(y, 17) ^ turned(y, 19) ^ (y >>> 10);
      words[n] = words[n - 16] + low + words[n - 7] + high;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let n = 0; n < 64; n++) {
      const choice = (e & f) ^ (~e & g);
      const one = (h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + choice + SHA_ROUNDS[n] + words[n]) | 0;
      const majority = (a & b) ^ (a & c) ^ (b & c);
      const two = ((turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + majority) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((value, n) => { state[n] += value; });
  }
  return Array.from(state, (word) => word.toString(16).padStart(8, "0")).join("");
}

/** @param {Uint8Array} data */
export function digest(data) {
  return fromHex(sha256(data));
}

const BLOCK_BYTES = 64;

/**
 * HMAC-SHA256 (RFC 2104).
 * @param {Uint8Array} key
 * @param {Uint8Array} data
 */
export function hmac(key, data) {
  const padded = new Uint8Array(BLOCK_BYTES);
  padded.set(key.length > BLOCK_BYTES ? digest(key) : key);
  const inner = digest(joined([padded.map((byte) => byte ^ 0x36), data]));
  return digest(joined([padded.map((byte) => byte ^ 0x5c), inner]));
}

/**
 * HKDF-SHA256 (RFC 5869) without salt.
 * @param {Uint8Array} key
 * @param {Uint8Array} info
 * @param {number} size at most 32: one block
 */
export function hkdf(key, info, size = 32) {
  const extracted = hmac(new Uint8Array(32), key);
  return hmac(extracted, joined([info, Uint8Array.of(1)])).subarray(0, size);
}

/**
 * @param {number} word
 * @param {number} bits
 */
function turned(word, bits) {
  return (word >>> bits) | (word << (32 - bits));
}

/**
 * The first 32 bits behind the point.
 * @param {number} root
 */
function fraction(root) {
  return ((root - Math.floor(root)) * 2 ** 32) >>> 0;
}

/** @param {number} count */
function firstPrimes(count) {
  /** @type {number[]} */
  const primes = [];
  for (let n = 2; primes.length < count; n++) if (primes.every((prime) => n % prime)) primes.push(n);
  return primes;
}
