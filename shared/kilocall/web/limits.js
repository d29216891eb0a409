// Numbers that every side and every format agrees on; `proto/limits.py` says what they are.

export const PROTOCOL_VERSION = 1;

export const MAX_FRAMES = 8;
export const LEVELS = 9;
export const SEQUENCES = 1 << 16;
export const HISTORY = 64;
export const MAX_PAYLOAD_BYTES = 8192;
export const MOST_PICTURES = 8;
