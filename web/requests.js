/** What a client of hub.js has asked and not been answered, by the connection that it was asked over. No dependency. */

import { ofConnection } from "./lines.js";

/** What the hub refused, or what became of a request when the connection went. */
export class HubError extends Error {
  /** @param {{code: string, message: string, retry?: string, retry_after_ms?: number, details?: object, fallback?: string[]}} body */
  constructor(body) {
    super(body.message);
    this.code = body.code;
    this.retry = body.retry ?? "later";
    this.retryAfterMs = body.retry_after_ms ?? 0;
    this.details = body.details ?? {};
    /** Transports over which the same may still be had. @type {string[]} */
    this.fallback = body.fallback ?? this.details.fallback ?? [];
  }
}

/**
 * One request.
 *
 * @typedef {object} Request
 * @property {any} frame
 * @property {any} line that it went over
 * @property {(result: any) => void} resolve
 * @property {(error: HubError) => void} reject
 */

export class Requests {
  /** By id. @type {Map<number, Request>} */
  #open = new Map();
  /** Connections that were left and have answers to bring. */
  #left = new Set();

  /** @param {number} id @param {Request} request */
  add(id, request) {
    this.#open.set(id, request);
  }

  has(id) {
    return this.#open.has(id);
  }

  /** Whether answers are to come over this connection. */
  awaits(line) {
    return [...this.#open.values()].some((request) => request.line === line);
  }

  /** What was asked by this id; there is an answer to it. @returns {Request | undefined} */
  answered(id) {
    const request = this.#open.get(id);
    this.#open.delete(id);
    if (request && this.#left.has(request.line)) this.#closeIdle(request.line);
    return request;
  }

  /** Another connection has taken its place: it stays for the answers that others can not bring. */
  leave(line) {
    this.#reject((request) => request.line === line && ofConnection(request.frame));
    this.#left.add(line);
    line.leave();
    this.#closeIdle(line);
  }

  /** Nothing comes over this connection any more. */
  lost(line) {
    this.#left.delete(line);
    this.#reject((request) => request.line === line);
  }

  /** Nothing is waited for any more. */
  close() {
    for (const line of this.#left) line.close();
    this.#left.clear();
    this.#reject(() => true);
  }

  #closeIdle(line) {
    if (this.awaits(line)) return;
    this.#left.delete(line);
    line.close();
  }

  #reject(concerned) {
    const error = new HubError({ code: "connection_lost", message: "the connection went before the answer came" });
    for (const [id, request] of [...this.#open]) {
      if (!concerned(request)) continue;
      this.#open.delete(id);
      request.reject(error);
    }
  }
}
