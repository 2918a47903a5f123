/** Uploads over HTTP, for upload.js where there is no WebSocket: docs/uploads-tus.md. No dependency. */

import { HubError } from "./hub.js";
import { problemOf } from "./lines.js";

/** A request has so many bytes: what many proxies let through without being told. */
const CHUNK_BYTES = 1_048_576;
const PATH = "/v1/uploads";
const HEADERS = { "Tus-Resumable": "1.0.0" };

/**
 * Begins an upload. Its metadata are texts, whatever they were, and an attempt whose answer is lost leaves an empty
 * upload, which expires.
 *
 * @param {import("./hub.js").HubClient} hub
 * @param {{filename: string, size: number, document_type: string, metadata: object, shares: string[], sha256?: string}} wanted
 * @returns {Promise<{upload: string, topic: string}>} rejects with `HubError`
 */
export async function createByTus(hub, { filename, size, document_type: documentType, metadata, shares, sha256 }) {
  const all = { ...metadata, filename, document_type: documentType, ...(sha256 && { sha256 }), ...(shares.length > 0 && { shares: shares.join(" ") }) };
  const pairs = Object.entries(all).map(([name, value]) => `${name} ${base64(String(value))}`.trimEnd());
  const answer = await ask(hub, PATH, "POST", { "Upload-Length": String(size), "Upload-Metadata": pairs.join(",") });
  const upload = answer.headers.get("Location").split("/").pop();
  return { upload, topic: `upload:${upload}` };
}

/** As a handle of a connection is for chunks, requests are. */
export class TusHandle {
  #hub;
  #id;
  #listener;
  #ending = new AbortController();
  #size;

  /**
   * @param {import("./hub.js").HubClient} hub
   * @param {string} id @param {number} size of the upload
   * @param {{onCredit: (credit: {offset: number, window: number}) => void, onError: (error: HubError) => void, onLost: () => void}} listener
   */
  constructor(hub, id, size, listener) {
    this.#hub = hub;
    this.#id = id;
    this.#size = size;
    this.#listener = listener;
  }

  /** Where it goes on. @returns {Promise<{offset: number, chunk_bytes: number, window: number}>} rejects with `HubError` */
  async begin() {
    const offset = offsetOf(await ask(this.#hub, `${PATH}/${this.#id}`, "HEAD", {}));
    return { offset, chunk_bytes: CHUNK_BYTES, window: CHUNK_BYTES };
  }

  get unsent() {
    return 0;
  }

  /** One chunk at a time: the next when there is credit. @param {number} offset @param {ArrayBuffer} body */
  async send(offset, body) {
    const headers = { "Upload-Offset": String(offset), "Content-Type": "application/offset+octet-stream" };
    const { signal } = this.#ending;
    try {
      const reached = offsetOf(await ask(this.#hub, `${PATH}/${this.#id}`, "PATCH", headers, { body, signal }));
      if (!signal.aborted) this.#listener.onCredit({ offset: reached, window: Math.min(CHUNK_BYTES, this.#size - reached) });
    } catch (error) {
      if (signal.aborted) return;
      // A browser repeats by itself what was on a connection that broke, and some of that had come: where, a HEAD tells.
      if (error.code === "connection_lost" || error.code === "offset_mismatch") this.#listener.onLost();
      else this.#listener.onError(error);
    }
  }

  close() {
    this.#ending.abort();
  }
}

async function ask(hub, path, method, headers, more = {}) {
  let answer;
  try {
    answer = await hub.fetch(path, { method, headers: { ...HEADERS, ...headers }, ...more });
  } catch (error) {
    throw new HubError({ code: "connection_lost", message: String(error) });
  }
  if (answer.ok) return answer;
  const problem = await problemOf(answer);
  if (problem) throw new HubError(problem);
  // A HEAD has no body to say more; what a proxy says passes, or does not.
  const code = { 404: "not_found", 410: "conflict" }[answer.status] ?? "unavailable";
  throw new HubError({ code, message: `HTTP ${answer.status}`, retry: answer.status < 429 ? "never" : "later" });
}

function offsetOf(answer) {
  return Number(answer.headers.get("Upload-Offset"));
}

function base64(text) {
  return btoa(Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join(""));
}
