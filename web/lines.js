/**
 * The three ways from a browser to the hub, alike for who uses them: a WebSocket, a stream of server-sent events, polls.
 * docs/transports.md says how they differ. No dependency.
 */

const PROTOCOL = "hub.v1.json";
const BYE = 1000;
/** What the status of a refusal by the hub means as a close code. Any other: this way does not lead there. */
const CODES = new Map([[400, 4400], [401, 4401], [403, 4403], [413, 4413], [429, 4429], [500, 4500], [503, 4503], [504, 4503]]);
/** Frames that belong to the connection, on whichever node it is: their answers come over it, all others with the request. */
const OF_CONNECTION = new Set(["subscribe", "unsubscribe", "auth", "ack"]);
const MOST_FRAMES = 20;
/** A browser has six connections to a host over HTTP/1.1: one is the stream's, others are for what the page does besides. */
const MOST_REQUESTS = 3;
/** Calls may take long: so many requests with calls leave room for what takes none. */
const MOST_CALLS = 2;
/** What the hub has after this time it has begun to work on, in the order sent; then calls may be overtaken. */
const OVERTAKE_MS = 500;
/** How long requests may take that are under way when the connection is left. */
const LEAVE_MS = 30_000;
/** A stream's acknowledgements, each a request, go out this often. A poll is one itself. */
const ACKNOWLEDGE_MS = 10_000;
const POLL_WAIT_S = 25;
const POLL_TRIES = 3;
const POLL_AGAIN_MS = 500;

/**
 * What a line is made for.
 *
 * @typedef {object} Way
 * @property {URL} url of the WebSocket
 * @property {string} base what comes before `/v1` over HTTP
 * @property {string} token
 * @property {string} ticket in place of a token, for a WebSocket
 * @property {(address: URL, protocol: string) => WebSocket} makeSocket
 */

/**
 * Who hears what comes over a line. Nothing is called from within the constructor.
 *
 * @typedef {object} Listener
 * @property {() => void} onOpen a hello may be sent, and must be the first frame
 * @property {() => void} onSign something came
 * @property {(frame: any) => void} onFrame also answers that come after `leave`
 * @property {(code: number, reason: string, retryAfterMs?: number) => void} onClose once, but not after `close` or
 *   `leave`. Below 4000: whoever said so was not the hub, as far as one can tell
 */

/** A WebSocket. Throws when there is none to be had. */
export class SocketLine {
  transport = "websocket";
  #socket;
  #listener;
  #alarm = 0;

  /** @param {Way} way @param {Listener} listener */
  constructor({ url, ticket, makeSocket }, listener) {
    const address = new URL(url);
    if (ticket) address.searchParams.set("ticket", ticket);
    this.#listener = listener;
    this.#socket = makeSocket(address, PROTOCOL);
    this.#socket.onopen = () => listener.onOpen();
    this.#socket.onmessage = (message) => {
      listener.onSign();
      listener.onFrame(JSON.parse(message.data));
    };
    this.#socket.onclose = ({ code, reason }) => {
      clearTimeout(this.#alarm);
      listener.onClose(code, reason);
    };
  }

  /** Bytes that wait to be sent. */
  get unsent() {
    return this.#socket.bufferedAmount;
  }

  send(frame) {
    this.#socket.send(JSON.stringify(frame));
  }

  /** @param {Uint8Array} message dropped when the socket is closed */
  sendBytes(message) {
    this.#socket.send(message);
  }

  /** Ends it without waiting for the other side. */
  close() {
    const socket = this.#socket;
    clearTimeout(this.#alarm);
    socket.onopen = socket.onmessage = socket.onclose = null; // it may still have something to say
    socket.close(BYE);
  }

  /** Hears answers until `close`, for as long as the hub keeps it; nothing but answers is of any use. */
  leave() {
    this.#alarm = setTimeout(() => {
      this.close();
      this.#listener.onClose(0, "left");
    }, LEAVE_MS);
  }
}

/** What a stream and polls have in common: frames to the hub go as requests of their own, on any node. */
class HttpLine {
  #way;
  #listener;
  #session = "";
  #closed = false;
  #ending = new AbortController();
  #letters = new AbortController();
  #mail = [];
  #positions = {};
  #alarm = 0;
  /** Ids of what the connection was asked, and has not answered. @type {Set<number>} */
  #awaited = new Set();
  /** Requests with frames that have no answer yet. @type {Set<{calls: boolean, late: boolean}>} */
  #underway = new Set();

  /** @param {Way} way @param {Listener} listener */
  constructor(way, listener) {
    this.#way = way;
    this.#listener = listener;
    queueMicrotask(() => this.#closed || listener.onOpen());
  }

  get closed() {
    return this.#closed;
  }

  get unsent() {
    return 0;
  }

  /** Frames take effect in the order sent; only a call that takes long may be overtaken. */
  send(frame) {
    if (frame.type === "hello") {
      const { token: _, ...hello } = frame; // it is in a header
      this.listen(hello);
      return;
    }
    if (frame.type === "ack") {
      this.acknowledge(frame.positions);
      return;
    }
    this.#mail.push(frame);
    this.#deliver();
  }

  acknowledge(positions) {
    Object.assign(this.#positions, positions);
    this.#alarm ||= setTimeout(() => {
      this.#mail.push({ type: "ack", positions: this.#positions });
      this.#positions = {};
      this.#alarm = 0;
      this.#deliver();
    }, ACKNOWLEDGE_MS);
  }

  close() {
    this.#closed = true;
    this.#mail = [];
    clearTimeout(this.#alarm);
    this.#ending.abort();
    this.#letters.abort();
  }

  /** Hears nothing more but the answers to what was sent, except what only this connection could be told. */
  leave() {
    this.#closed = true;
    clearTimeout(this.#alarm);
    this.#ending.abort();
    this.#mail = this.#mail.filter((frame) => !ofConnection(frame));
    this.#awaited.clear();
    setTimeout(() => this.#letters.abort(), LEAVE_MS);
  }

  /** What the hub says first, and then. @param {object} hello */
  listen(hello) {
    throw new Error(`${this.transport} can not listen to ${hello.type}`);
  }

  request(path, body, accept = "application/json") {
    return this.#post(path, body, accept, this.#ending.signal);
  }

  sign() {
    if (!this.#closed) this.#listener.onSign();
  }

  hear(frame) {
    if (this.#closed) return;
    if (frame.type === "close") {
      this.end(frame.code, frame.reason);
      return;
    }
    if (frame.type === "welcome") this.#session = frame.session;
    this.#tell(frame);
  }

  /** An answer that is not what was asked for. @param {boolean} begun it was not about the hello */
  async refused(answer, begun = false) {
    const problem = await problemOf(answer);
    const known = problem !== null && problem.code !== "feature_disabled" && !(begun && answer.status === 400);
    const code = answer.status === 401 ? 4401 : (known && CODES.get(answer.status)) || 0;
    const after = Number(answer.headers.get("Retry-After")) * 1000 || 0;
    this.end(code, problem?.message ?? `HTTP ${answer.status}`, problem?.retry_after_ms ?? after);
  }

  end(code, reason, retryAfterMs = 0) {
    if (this.#closed) return;
    this.close();
    this.#listener.onClose(code, reason, retryAfterMs);
  }

  #tell(frame) {
    try {
      this.#listener.onFrame(frame);
    } catch (error) {
      reportError(error); // as from a WebSocket's: what comes next is not to suffer
    }
    if (this.#awaited.delete(frame.id)) this.#deliver();
  }

  #post(path, body, accept, signal) {
    const headers = { Authorization: `Bearer ${this.#way.token}`, "Content-Type": "application/json", Accept: accept };
    const url = this.#way.base + path;
    return fetch(url, { method: "POST", headers, body: JSON.stringify(body), signal, cache: "no-store", credentials: "omit" });
  }

  #deliver() {
    while (this.#mail.length > 0 && this.#underway.size < MOST_REQUESTS) {
      for (const { calls, late } of this.#underway) if (!calls || !late) return;
      // Calls that wait for calls to end hold up nothing but calls.
      const first = this.#underway.size < MOST_CALLS ? 0 : this.#mail.findIndex((frame) => !isFree(frame));
      if (first < 0) return;
      // Two requests may come to two nodes, and on their way to the connection the second overtakes the first.
      if (this.#awaited.size > 0 && ofConnection(this.#mail[first])) return;
      const calls = isFree(this.#mail[first]);
      let end = first + 1;
      while (end - first < MOST_FRAMES && end < this.#mail.length && isFree(this.#mail[end]) === calls) end += 1;
      const frames = this.#mail.splice(first, end - first);
      for (const frame of frames) if (frame.id && ofConnection(frame)) this.#awaited.add(frame.id);
      this.#dispatch(frames, calls);
    }
  }

  async #dispatch(frames, calls) {
    const request = { calls, late: false };
    this.#underway.add(request);
    const alarm = setTimeout(() => {
      request.late = true;
      this.#deliver();
    }, OVERTAKE_MS);
    // A request that brings a fresh token shows the hub that one.
    const { token } = this.#way;
    const fresh = frames.findLast((frame) => frame.type === "auth");
    if (fresh) this.#way.token = fresh.token;
    try {
      const answer = await this.#post("/v1/frames", { session: this.#session, frames }, "application/json", this.#letters.signal);
      if (answer.ok) {
        this.#answered(frames, (await answer.json()).frames);
        this.sign();
      } else {
        if (fresh) this.#way.token = token;
        this.#fail(frames, (await problemOf(answer)) ?? lost(`HTTP ${answer.status}`));
      }
    } catch (error) {
      // What came of it nobody knows: as when a socket breaks.
      this.#fail(frames, lost(String(error)));
      this.end(0, String(error));
    } finally {
      clearTimeout(alarm);
      this.#underway.delete(request);
      this.#deliver();
    }
  }

  #answered(frames, answers) {
    const own = new Set(frames.filter(ofConnection).map(({ id }) => id));
    // The hub has no such connection any more: sooner or later the stream would tell as well.
    if (answers.some(({ type, code, id }) => type === "error" && code === "not_found" && own.has(id))) this.end(0, "the hub has forgotten this connection");
    else for (const frame of answers) this.#tell(frame);
  }

  #fail(frames, error) {
    for (const { id } of frames) if (id) this.#tell({ ...error, type: "error", id });
  }
}

/** Server-sent events, read from the answer to a POST: its body is the hello, its headers have the token. */
export class StreamLine extends HttpLine {
  transport = "sse";

  async listen(hello) {
    try {
      const answer = await this.request("/v1/sse", hello, "text/event-stream");
      if (!answer.ok) await this.refused(answer);
      else if (!answer.headers.get("Content-Type")?.startsWith("text/event-stream")) this.end(0, "this is no stream of events");
      else await this.#read(answer.body.getReader());
    } catch (error) {
      this.end(0, String(error));
    }
  }

  async #read(reader) {
    const decoder = new TextDecoder();
    const blocks = new EventBlocks();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      this.sign();
      for (const { data } of blocks.push(decoder.decode(value, { stream: true }))) if (data) this.hear(JSON.parse(data));
    }
    this.end(0, "the stream ended");
  }
}

/** Polls, one after the other: each says by its cursor what has come. */
export class PollLine extends HttpLine {
  transport = "poll";
  #cursor = "";
  #waitS = POLL_WAIT_S;
  #failures = 0;

  async listen(hello) {
    let body = hello;
    while (!this.closed) {
      const answer = await this.#ask(body);
      if (answer === null || this.closed) return;
      this.#failures = 0;
      this.sign();
      for (const frame of answer.frames) {
        if (frame.type === "welcome") this.#waitS = Math.min(POLL_WAIT_S, frame.heartbeat_ms / 1000);
        this.hear(frame);
      }
      this.#cursor = answer.cursor;
      body = { cursor: this.#cursor, wait: this.#waitS };
    }
  }

  /** An answer; null: there will be none. One that was lost on its way is asked for again: the hub still has it. */
  async #ask(body) {
    for (;;) {
      try {
        const answer = await this.request("/v1/poll", body);
        if (answer.ok) return await answer.json();
        const passes = answer.status === 502 || answer.status === 504; // of a proxy that does not wait so long
        if (!passes || !this.#tryAgain()) {
          await this.refused(answer, this.#cursor !== "");
          return null;
        }
      } catch (error) {
        if (this.closed) return null;
        if (!this.#tryAgain()) {
          this.end(0, String(error));
          return null;
        }
      }
      await new Promise((resume) => setTimeout(resume, Math.random() * POLL_AGAIN_MS * 2 ** this.#failures));
      if (this.closed) return null;
      if (body.cursor) body = { ...body, wait: this.#waitS };
    }
  }

  acknowledge() {
    // The cursor does.
  }

  #tryAgain() {
    this.#waitS = Math.max(1, this.#waitS / 2);
    this.#failures += 1;
    return this.#cursor !== "" && this.#failures < POLL_TRIES;
  }
}

/**
 * Cuts a stream of server-sent events into its blocks, in whatever pieces it comes. Comments and what it does not know
 * it leaves out.
 */
export class EventBlocks {
  #rest = "";
  /** A line ended with the last piece, by a carriage return: a line feed that comes next belongs to it. */
  #returned = false;
  #begun = false;
  /** @type {string[]} */
  #data = [];
  /** @type {string | undefined} */
  #id;

  /** @param {string} text the next piece @returns {{data: string, id?: string}[]} blocks that are complete now */
  push(text) {
    if (text === "") return [];
    if (!this.#begun) {
      this.#begun = true;
      if (text.startsWith("\ufeff")) text = text.slice(1);
    }
    if (this.#returned && text.startsWith("\n")) text = text.slice(1);
    this.#returned = text === "" ? false : text.endsWith("\r");
    const lines = text.split(/\r\n|\n|\r/);
    lines[0] = this.#rest + lines[0];
    this.#rest = lines.pop();
    const blocks = [];
    for (const line of lines) {
      if (line !== "") this.#field(line);
      else if (this.#data.length > 0 || this.#id !== undefined) {
        blocks.push({ data: this.#data.join("\n"), ...(this.#id !== undefined && { id: this.#id }) });
        this.#data = [];
        this.#id = undefined;
      }
    }
    return blocks;
  }

  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "data") this.#data.push(value);
    else if (name === "id" && !value.includes("\0")) this.#id = value;
  }
}

/** Whether the answer to a frame comes over the connection, and not with the request that brought it. */
export function ofConnection({ type, method }) {
  return OF_CONNECTION.has(type) || (type === "call" && method.startsWith("presence."));
}

/** A call that any node performs, and that others may overtake. */
function isFree(frame) {
  return frame.type === "call" && !ofConnection(frame);
}

function lost(message) {
  return { code: "connection_lost", message: `the answer did not come: ${message}`, retry: "later" };
}

/** What the hub says of an error, or null when it was somebody else who answered. */
export async function problemOf(answer) {
  if (!answer.headers.get("Content-Type")?.startsWith("application/problem+json")) return null;
  const { code, detail, retry, retry_after_ms: after, details } = await answer.json().catch(() => ({}));
  return code ? { code, message: detail, retry, ...(after && { retry_after_ms: after }), ...(details && { details }) } : null;
}
