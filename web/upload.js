/**
 * Uploads of files for browsers, over the one connection of hub.js: they go on after a lost connection, on any node, from
 * the last byte that the hub has; where there is no WebSocket, by requests (tus.js). docs/uploads.md says what an upload is,
 * docs/protocol.md (section 9) how its bytes travel.
 */

import { HubError } from "./hub.js";
import { createByTus, TusHandle } from "./tus.js";

/** How long things take, in milliseconds. */
const ASK_AGAIN_MS = 250;
const MOST_ASK_AGAIN_MS = 10_000;
/** The hub repeats credit every second, and tells when a document is ready: after this long without a word it is asked, if no option says otherwise. */
const PATIENCE_MS = 10_000;
const SENDING_MS = 10;
const MEASURE_MS = 250;
/** Bytes in the browser that are not sent yet. More of them make nothing faster, and everything else waits behind them. */
const MOST_UNSENT_BYTES = 1_048_576;
/** What is under way and not safe is for so long, as fast as it goes, but not less than this; and this before that is known. */
const AHEAD_S = 3;
const LEAST_AHEAD_BYTES = 524_288;
const FIRST_AHEAD_BYTES = 4_194_304;
/** So often somebody else who goes on with it, by requests, is believed to be itself: what the browser has repeated. */
const MOST_REPEATED = 3;
/** Refusals that pass some day, but nobody waits for that. */
const NOT_SOON = new Set(["quota_exceeded", "feature_disabled"]);
/** Refusals of a chunk after which the handle still takes others. */
const GO_ON = new Set(["offset_mismatch", "rate_limited"]);
/** States in which it will never be available. */
const LOST = new Set(["rejected", "cancelled", "expired"]);

/**
 * How an upload is about, as the hub tells it (`upload.status`).
 *
 * @typedef {object} Shape
 * @property {string} upload
 * @property {string} topic
 * @property {"receiving" | "received" | "checking" | "available" | "rejected" | "cancelled" | "expired"} state
 * @property {string} filename
 * @property {string} document_type
 * @property {number} size
 * @property {number} offset what is safe
 * @property {boolean} paused
 * @property {object} metadata
 * @property {string | null} sha256
 * @property {string | null} media_type
 * @property {object | null} facts
 * @property {{code: string, message: string} | null} error
 */

/**
 * Uploads a file.
 *
 *     const sending = upload(hub, input.files[0], { documentType: "passport", onProgress: ({ offset, size }) => … });
 *     const document = await sending.done;
 *
 * @param {import("./hub.js").HubClient} hub
 * @param {Blob} file
 * @param {object} [options]
 * @param {string} [options.documentType]
 * @param {Record<string, string | number | boolean>} [options.metadata] the tags of its events
 * @param {string[]} [options.shares] topics: whoever may subscribe to one of them may see the document
 * @param {string} [options.sha256] what the whole file must have, in hex
 * @param {string} [options.filename] for a `Blob`; a `File` has one
 * @param {string} [options.upload] goes on with this one, of the same file, instead of beginning another
 * @param {(now: {state: string, offset: number, size: number, paused: boolean}) => void} [options.onProgress] something
 *   has changed; `offset` bytes are safe
 * @param {(event: any) => void} [options.onEvent] every event of the upload's topic
 * @param {AbortSignal} [options.signal] cancels it
 * @param {number} [options.patienceMs] the hub is asked after so long without a word
 */
export function upload(hub, file, options = {}) {
  return new Upload(hub, file, options);
}

/** One file on its way; made by `upload`. */
export class Upload {
  /** Its name, once the hub has given it one. */
  id = "";
  /** What the hub has said last, and `creating` before. */
  state = "creating";
  /** Bytes that are safe. */
  offset = 0;
  /** The document when it may be read. Rejects with `HubError` if that will never be: `cancelled`, or what is wrong with it. @type {Promise<Shape>} */
  done;

  #hub;
  #file;
  #options;
  /** The same for every attempt to begin, so that it begins once. */
  #key = freshKey();
  #asked = false;
  /** @type {"send" | "pause" | "cancel"} */
  #aim = "send";
  /** The hub knows that it is paused; or somebody else goes on with it. */
  #rests = false;
  /** What a refusal meant is to be asked. */
  #doubt = false;
  #repeated = 0;
  #over = false;
  #settle;
  #leave = () => {};
  /** By which bytes are sent; null: there is none now. */
  #handle = null;
  #chunkBytes = 0;
  /** The next byte to send, and the first that there is no credit for. */
  #next = 0;
  #limit = 0;
  /** How far it may be ahead of what is safe, and from when and where on that is measured. */
  #ahead = FIRST_AHEAD_BYTES;
  #measured = { at: 0, offset: 0 };
  #heardAt = 0;
  /** Ends a nap. Changes that happen while nobody naps are counted. */
  #wakeUp = () => {};
  #changes = 0;

  /** @param {import("./hub.js").HubClient} hub @param {Blob} file @param {any} options as for `upload` */
  constructor(hub, file, options) {
    this.#hub = hub;
    this.#file = file;
    this.#options = options;
    this.done = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    this.done.catch(() => {}); // who only looks at `onProgress` is told there
    options.signal?.addEventListener("abort", this.#abort);
    if (options.signal?.aborted) this.#aim = "cancel";
    this.#work();
  }

  /** No byte is sent; the hub keeps those that it has, for a day if nothing else is configured. */
  pause() {
    if (this.#aim !== "send" || this.#over) return;
    this.#turn("pause");
    this.#release();
  }

  /** Goes on, also with what somebody else has paused or taken over. */
  resume() {
    if (this.#aim !== "pause" || this.#over) return;
    this.#repeated = 0;
    this.#turn("send");
  }

  /** Gives it up; what the hub has of it is removed. */
  cancel() {
    if (this.#over) return;
    this.#turn("cancel");
    this.#release();
  }

  get paused() {
    return this.#aim === "pause";
  }

  get #patienceMs() {
    return this.#options.patienceMs ?? PATIENCE_MS;
  }

  // --- what is to be done next

  async #work() {
    let failures = 0;
    while (!this.#over) {
      const changes = this.#changes;
      try {
        const idleMs = await this.#step();
        failures = 0;
        if (idleMs > 0) await this.#nap(idleMs, changes);
      } catch (error) {
        if (!passes(error)) this.#end(error);
        else await this.#backOff(error, failures++);
      }
    }
  }

  /** Does one thing. Returns for how long there is nothing to do, unless something changes. */
  #step() {
    if (this.#aim === "cancel" && !this.#asked) return this.#end(cancelled());
    if (!this.id) return this.#begin();
    if (this.#aim === "cancel") return this.#cancel();
    if (this.#doubt) return this.#ask();
    if (this.offset >= this.#file.size) return this.#patient(() => this.#ask());
    if (this.#aim === "pause") return this.#rests ? this.#patienceMs : this.#pause();
    if (this.#handle === null) return this.#resume();
    return this.#send();
  }

  async #begin() {
    this.#asked = true;
    const { documentType = "document", metadata = {}, shares = [], sha256, filename = this.#file.name, upload: known } = this.#options;
    if (known) return this.#recall(known);
    const asked = { filename, size: this.#file.size, document_type: documentType, metadata, shares, key: this.#key };
    if (this.#byRequests) {
      const begun = await createByTus(this.#hub, { ...asked, sha256 });
      this.#watch(begun.upload, begun.topic);
      return 0;
    }
    try {
      const begun = await this.#hub.call("upload.create", { ...asked, ...(sha256 && { sha256 }) });
      this.#bind(begun); // before anything else is awaited
      this.#watch(begun.upload, begun.topic);
    } catch (error) {
      if (error.code !== "conflict" || !error.details.upload || !error.details.state) throw error; // without a state: another file's
      await this.#recall(error.details.upload); // it was begun before, and its end has come meanwhile
    }
    return 0;
  }

  async #recall(known) {
    const shape = await this.#hub.call("upload.status", { upload: known });
    if (shape.size !== this.#file.size) throw failure("conflict", `this file has ${this.#file.size} bytes, and that upload ${shape.size}`);
    this.#watch(shape.upload, shape.topic);
    this.#took(shape);
    return 0;
  }

  async #resume() {
    try {
      if (this.#byRequests) await this.#bindRequests();
      else this.#bind(await this.#hub.call("upload.resume", { upload: this.id }));
    } catch (error) {
      if (error.code !== "conflict") throw error;
      this.#took(await this.#hub.call("upload.status", { upload: this.id })); // it has been received meanwhile, or cancelled
      if (this.state === "receiving") throw failure("unavailable", error.message, "later");
    }
  }

  get #byRequests() {
    return this.#hub.transport !== "websocket";
  }

  async #bindRequests() {
    const heard = (act) => (what) => handle === this.#handle && act(what);
    const handle = new TusHandle(this.#hub, this.id, this.#file.size, this.#hears(heard));
    const begun = await handle.begin();
    if (!this.#over && this.#aim === "send") this.#begins(handle, begun);
  }

  async #pause() {
    try {
      this.#took(await this.#hub.call("upload.pause", { upload: this.id }));
      this.#rests = true;
    } catch (error) {
      if (error.code !== "conflict") throw error;
      await this.#ask();
    }
  }

  async #cancel() {
    try {
      this.#took(await this.#hub.call("upload.cancel", { upload: this.id }));
    } catch (error) {
      if (error.code !== "conflict") throw error;
      await this.#ask(); // it has come to its end already
      this.#aim = "send";
    }
  }

  async #ask() {
    const shape = await this.#hub.call("upload.status", { upload: this.id });
    this.#took(shape);
    if (!this.#doubt) return;
    this.#doubt = false;
    if (this.state !== "receiving" || this.#aim !== "send") return;
    if (this.#byRequests && !shape.paused && this.#repeated++ < MOST_REPEATED) return;
    // Another client of the same user goes on with it, or has paused it: that is not to be fought over.
    this.#rests = true;
    this.#aim = "pause";
    this.#changed();
  }

  /** Sends the next chunk, if there is credit for it and the connection is not full. */
  async #send() {
    const handle = this.#handle;
    const offset = this.#next;
    const wanted = Math.min(this.#chunkBytes, this.#file.size - offset);
    const allowed = Math.min(this.#limit, this.offset + this.#ahead) - offset;
    const size = Math.min(wanted, allowed);
    // Crumbs only when nothing else is under way.
    if (size <= 0 || (size < wanted && offset > this.offset)) return this.#patient(() => this.#release());
    if (handle.unsent > MOST_UNSENT_BYTES) return SENDING_MS;
    const bytes = await this.#read(offset, size);
    if (handle !== this.#handle || offset !== this.#next || this.#over) return 0;
    handle.send(offset, bytes);
    this.#next = offset + size;
    return 0;
  }

  async #read(offset, size) {
    try {
      return await this.#file.slice(offset, offset + size).arrayBuffer();
    } catch (error) {
      throw failure("file_unreadable", `the file can not be read (any more): ${error.message}`);
    }
  }

  /** Waits for a word of the hub; when none comes, acts. */
  #patient(act) {
    const silentMs = Date.now() - this.#heardAt;
    if (silentMs < this.#patienceMs) return this.#patienceMs - silentMs;
    this.#heardAt = Date.now();
    return act();
  }

  // --- what is heard

  #bind({ handle: number, offset, chunk_bytes: chunkBytes, window }) {
    this.#heardAt = Date.now();
    if (!number) {
      this.#doubt = true; // it was begun before, and takes no bytes
      return;
    }
    const heard = (act) => (what) => handle === this.#handle && act(what);
    const handle = this.#hub.handle(number, this.#hears(heard));
    this.#begins(handle, { offset, chunk_bytes: chunkBytes, window });
  }

  #hears(heard) {
    return {
      onCredit: heard((credit) => this.#credited(credit)),
      onError: heard((error) => this.#refused(error)),
      onLost: heard(() => this.#release()),
    };
  }

  #begins(handle, { offset, chunk_bytes: chunkBytes, window }) {
    this.#handle = handle;
    this.#chunkBytes = chunkBytes;
    this.state = "receiving";
    this.#rests = false;
    this.#next = offset;
    this.#measured = { at: Date.now(), offset };
    this.#credited({ offset, window });
    if (this.#aim !== "send") this.#release(); // meanwhile
  }

  #credited({ offset, window }) {
    this.#heardAt = Date.now();
    this.#limit = offset + window;
    this.offset = offset;
    this.#next = Math.max(this.#next, offset);
    const passedMs = Date.now() - this.#measured.at;
    // Only what went while there was something to wait for says how fast it goes.
    if (passedMs >= MEASURE_MS && offset > this.#measured.offset) {
      const perSecond = ((offset - this.#measured.offset) * 1000) / passedMs;
      this.#ahead = Math.max(LEAST_AHEAD_BYTES, AHEAD_S * perSecond);
      this.#measured = { at: Date.now(), offset };
    }
    if (offset >= this.#file.size) this.#release();
    this.#changed();
  }

  #refused(error) {
    this.#heardAt = Date.now();
    const { offset } = error.details;
    if (GO_ON.has(error.code) && offset !== undefined) {
      this.#next = offset;
      if (error.code === "rate_limited") this.#limit = offset; // until there is credit again
      return this.#wake();
    }
    this.#release();
    if (error.code === "conflict") this.#doubt = true;
    else if (!passes(error) && error.code !== "not_found") this.#end(error); // a handle that is gone: there is another
  }

  #watch(id, topic) {
    this.id = id;
    const handlers = { onEvent: (event) => this.#event(event) };
    try {
      this.#leave = this.#hub.subscribe(topic, handlers, { since: "start" });
    } catch {
      // Somebody else listens to it; then the hub is asked instead.
    }
  }

  #event(event) {
    this.#heardAt = Date.now();
    const { onEvent } = this.#options;
    if (onEvent) queueMicrotask(() => onEvent(event));
    const { name, data } = event;
    if (name === "completed" || name === "failed" || name === "cancelled") this.#took(data);
    else if (name === "progress" && data.state !== "receiving") this.state = data.state;
    this.#changed();
  }

  /** The hub has told how it is about it. @param {Shape} shape */
  #took(shape) {
    this.#heardAt = Date.now();
    this.state = shape.state;
    if (this.#handle === null) this.offset = shape.offset;
    if (shape.state === "available") this.#end(null, shape);
    else if (LOST.has(shape.state)) this.#end(failure(shape.error?.code ?? shape.state, shape.error?.message ?? `this upload is ${shape.state}`));
    else this.#changed();
  }

  // --- small things

  #end(error, shape = undefined) {
    if (this.#over) return;
    this.#over = true;
    this.#release();
    this.#leave();
    const { signal } = this.#options;
    signal?.removeEventListener("abort", this.#abort);
    if (error === null) this.#settle.resolve(shape);
    else this.#settle.reject(signal?.aborted && error.code === "cancelled" ? signal.reason : error);
    if (error !== null && !LOST.has(this.state)) this.state = error.code === "cancelled" ? "cancelled" : "failed";
    this.#changed();
  }

  #abort = () => this.cancel();

  #turn(aim) {
    this.#aim = aim;
    this.#rests = false;
    this.#changed();
  }

  /** No chunk goes out by the present handle any more. */
  #release() {
    this.#handle?.close();
    this.#handle = null;
    this.#wake();
  }

  #changed() {
    const { onProgress } = this.#options;
    const now = { state: this.state, offset: this.offset, size: this.#file.size, paused: this.paused };
    if (onProgress) queueMicrotask(() => onProgress(now)); // what it throws is not to stop what goes on here
    this.#wake();
  }

  #wake() {
    this.#changes += 1;
    this.#wakeUp();
  }

  /** Until something changes, since then or from now on. */
  #nap(ms, changes) {
    if (changes !== this.#changes) return undefined;
    return new Promise((resolve) => {
      const alarm = setTimeout(resolve, ms);
      this.#wakeUp = () => {
        clearTimeout(alarm);
        resolve();
      };
    });
  }

  /** The whole pause, unless it is about something else by then. */
  async #backOff(error, failures) {
    const aim = this.#aim;
    const bound = error.code === "connection_lost" ? ASK_AGAIN_MS : Math.min(MOST_ASK_AGAIN_MS, ASK_AGAIN_MS * 2 ** failures);
    const until = Date.now() + Math.max(error.retryAfterMs, bound * (0.5 + Math.random() / 2));
    while (Date.now() < until && aim === this.#aim && !this.#over) await this.#nap(until - Date.now(), this.#changes);
  }
}

function passes(error) {
  return error instanceof HubError && error.retry !== "never" && !NOT_SOON.has(error.code);
}

function failure(code, message, retry = "never") {
  return new HubError({ code, message, retry });
}

function cancelled() {
  return failure("cancelled", "the upload has been cancelled");
}

function freshKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
