// What a browser keeps of other sides' pictures between calls, in its own data base (IndexedDB).
//
// All of it is read when it is opened, so that an offer is answered at once: what is kept is bounded for that.

const DATABASE = "kilocall";
const FORMAT = 1;
const STORES = /** @type {const} */ (["pictures", "references"]);
const MOST_BYTES = 4 << 20;

/** @typedef {{ hash: string, data: Uint8Array, keptMs: number }} Kept */

/** Bytes by their hash; the oldest go beyond `most`, or 4 MiB. */
export class BlobStore {
  /** @type {Map<string, Uint8Array>} the newest last */
  #held = new Map();
  #bytes = 0;
  #database;
  #name;
  #most;

  /**
   * @param {typeof STORES[number]} name
   * @param {number} most
   * @param {IDBDatabase | null} database null: this page's memory alone
   */
  constructor(name, most, database = null) {
    this.#name = name;
    this.#most = most;
    this.#database = database;
  }

  /**
   * Both stores with what they hold. Where the browser keeps nothing, as in some private windows, they are empty.
   * @returns {Promise<{ pictures: BlobStore, references: BlobStore }>}
   */
  static async openAll() {
    const database = await openDatabase();
    const pictures = new BlobStore("pictures", 64, database);
    const references = new BlobStore("references", 128, database);
    await Promise.all([pictures.#load(), references.#load()]);
    return { pictures, references };
  }

  /** @param {string} hash */
  get(hash) {
    return this.#held.get(hash);
  }

  /**
   * Kept from now on; that it is written too is not waited for.
   * @param {string} hash
   * @param {Uint8Array} data
   */
  put(hash, data) {
    this.#forget(hash);
    this.#held.set(hash, data);
    this.#bytes += data.length;
    const gone = this.#bound();
    this.#change((store) => {
      store.put(/** @type {Kept} */ ({ hash, data, keptMs: Date.now() }));
      for (const old of gone) store.delete(old);
    });
  }

  async #load() {
    if (this.#database === null) return;
    try {
      const kept = /** @type {Kept[]} */ (await answered(this.#database.transaction(this.#name).objectStore(this.#name).getAll()));
      kept.sort((a, b) => a.keptMs - b.keptMs);
      for (const { hash, data } of kept) {
        this.#held.set(hash, data);
        this.#bytes += data.length;
      }
      const gone = this.#bound();
      if (gone.length) this.#change((store) => gone.forEach((old) => store.delete(old)));
    } catch (error) {
      console.warn(`what was kept of ${this.#name} cannot be read: ${error}`);
    }
  }

  #bound() {
    const gone = [];
    for (const hash of this.#held.keys()) {
      if (this.#held.size <= this.#most && this.#bytes <= MOST_BYTES) break;
      this.#forget(hash);
      gone.push(hash);
    }
    return gone;
  }

  /** @param {string} hash */
  #forget(hash) {
    this.#bytes -= this.#held.get(hash)?.length ?? 0;
    this.#held.delete(hash);
  }

  /** @param {(store: IDBObjectStore) => void} change */
  #change(change) {
    if (this.#database === null) return;
    try {
      const transaction = this.#database.transaction(this.#name, "readwrite");
      // A full disk costs the next call some bytes, not this one.
      transaction.onabort = () => console.warn(`what the other side sent cannot be kept: ${transaction.error}`);
      change(transaction.objectStore(this.#name));
    } catch (error) {
      console.warn(`what the other side sent cannot be kept: ${error}`);
    }
  }
}

/** @returns {Promise<IDBDatabase | null>} */
async function openDatabase() {
  try {
    const request = indexedDB.open(DATABASE, FORMAT);
    request.onupgradeneeded = () => {
      for (const name of STORES) request.result.createObjectStore(name, { keyPath: "hash" });
    };
    return await answered(request);
  } catch (error) {
    console.warn(`this browser keeps no pictures: ${error}`);
    return null;
  }
}

/**
 * @template Result
 * @param {IDBRequest<Result>} request
 * @returns {Promise<Result>}
 */
function answered(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
