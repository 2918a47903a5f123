/**
 * A client of the hub for browsers: one socket, many topics, nothing lost over a reconnect. No dependency.
 *
 * docs/protocol.md is the contract. What it leaves to the Python client: acknowledgement windows, msgpack, uploads.
 */

const PROTOCOL = "hub.v1.json";
const BACKOFF_MS = { first: 250, most: 10_000 };
const ACK_MS = 1000;
/** Close codes after which trying again unchanged is of no use. */
const FATAL = new Set([4400, 4401, 4403, 4405, 4409, 4413]);

/** What the hub refused, or what became of a request when the connection went. */
export class HubError extends Error {
  /** @param {{code: string, message: string, retry?: string, retry_after_ms?: number, details?: object}} body */
  constructor(body) {
    super(body.message);
    this.code = body.code;
    this.retry = body.retry ?? "later";
    this.retryAfterMs = body.retry_after_ms ?? 0;
    this.details = body.details ?? {};
  }
}

/**
 * One connection that comes back by itself.
 *
 *     const hub = new HubClient("ws://127.0.0.1:8000/ws", () => token);
 *     hub.subscribe("events:finance", { onEvent: (event) => …, onGap: (gap) => … }, { since: "start" });
 *     const begun = await hub.call("content.start", { content: "<p>Hello</p>" });
 */
export class HubClient {
  /** Called with `"up"` or `"down"` and why. @type {(state: "up" | "down", detail: string) => void} */
  onState = () => {};

  #url;
  #token;
  /** @type {WebSocket | null} */
  #socket = null;
  #session = "";
  #ticket = "";
  #up = false;
  #closed = false;
  #attempt = 0;
  #ids = 0;
  #heardAt = 0;
  #heartbeatMs = 25_000;
  /** By topic: handlers, options of the first subscribe, the position to resume from, the epoch and what of it was seen. */
  #topics = new Map();
  /** By id: the two ends of a promise. */
  #waiting = new Map();
  #toAck = new Map();
  #timers = new Set();

  /**
   * @param {string} url
   * @param {() => string | Promise<string>} token asked for at every connection
   */
  constructor(url, token) {
    this.#url = url;
    this.#token = token;
    this.#every(ACK_MS, () => this.#acknowledge());
    this.#every(1000, () => this.#listen());
    this.#connect();
  }

  /**
   * @param {string} topic
   * @param {{onEvent: (event: any) => void, onGap?: (gap: any) => void, onEnd?: (error: HubError) => void}} handlers
   * @param {{since?: "start" | "now" | {epoch: string, seq: number}, last?: number, filter?: object}} [options]
   * @returns {() => void} ends the subscription
   */
  subscribe(topic, handlers, options = {}) {
    const begin = "since" in options || "last" in options ? options : { ...options, since: "now" };
    this.#topics.set(topic, { handlers, begin, position: null, epoch: null, seen: 0 });
    if (this.#up) {
      const asked = this.#ask({ type: "subscribe", topics: [this.#item(topic)] });
      asked.then((result) => this.#verdicts(result.topics), () => {}); // a lost connection subscribes anew
    }
    return () => {
      this.#topics.delete(topic);
      this.#toAck.delete(topic);
      if (this.#up) this.#ask({ type: "unsubscribe", topics: [topic] }).catch(() => {});
    };
  }

  /** Calls a method of a service. @returns {Promise<any>} rejects with `HubError`; `connection_lost`: it may have happened */
  call(method, params = {}) {
    return this.#ask({ type: "call", method, params });
  }

  /** Publishes an event; with a `key` it may be repeated safely. @returns {Promise<{epoch: string, seq: number}>} */
  publish(topic, name, data, key = undefined) {
    return this.#ask({ type: "publish", topic, name, data, ...(key && { key }) });
  }

  /** Ends it for good. */
  close() {
    this.#closed = true;
    this.#timers.forEach(clearInterval);
    this.#acknowledge();
    this.#socket?.close(1000);
  }

  async #connect() {
    const address = this.#ticket ? `${this.#url}?ticket=${this.#ticket}` : this.#url;
    const token = this.#ticket ? "" : await this.#token();
    this.#ticket = "";
    const socket = new WebSocket(address, PROTOCOL);
    this.#socket = socket;
    this.#heardAt = Date.now();
    socket.onopen = () => {
      const subscribe = [...this.#topics.keys()].map((topic) => this.#item(topic));
      const hello = { type: "hello", id: ++this.#ids, subscribe };
      if (token) hello.token = token;
      if (this.#session) hello.resume = { session: this.#session };
      socket.send(JSON.stringify(hello));
    };
    socket.onmessage = (message) => {
      this.#heardAt = Date.now();
      this.#take(JSON.parse(message.data), socket);
    };
    socket.onclose = (closed) => this.#lost(socket, closed);
  }

  #take(frame, socket) {
    switch (frame.type) {
      case "welcome":
        this.#session = frame.session;
        this.#heartbeatMs = frame.heartbeat_ms;
        this.#up = true;
        this.#attempt = 0;
        this.onState("up", `${frame.user} of ${frame.org}`);
        this.#verdicts(frame.topics);
        break;
      case "event":
        this.#event(frame);
        break;
      case "position": {
        const topic = this.#topics.get(frame.topic);
        if (topic) this.#reach(frame.topic, topic, frame.epoch, frame.seq);
        break;
      }
      case "gap": {
        const topic = this.#topics.get(frame.topic);
        if (!topic) break;
        if (frame.to) {
          this.#reach(frame.topic, topic, frame.epoch, frame.to);
        } else {
          // Another epoch. The old position stays until there is an event: only it tells where this client came from.
          topic.epoch = frame.epoch;
          topic.seen = 0;
        }
        topic.handlers.onGap?.(frame);
        break;
      }
      case "reply":
        this.#waiting.get(frame.id)?.resolve(frame.result);
        this.#waiting.delete(frame.id);
        break;
      case "error":
        this.#waiting.get(frame.id)?.reject(new HubError(frame));
        this.#waiting.delete(frame.id);
        break;
      case "unsubscribed":
        this.#end(frame.topic, frame);
        break;
      case "drain":
        this.#ticket = frame.ticket;
        setTimeout(() => socket.close(1000), frame.after_ms);
        break;
      case "expiring":
        Promise.resolve(this.#token()).then((token) => this.#ask({ type: "auth", token })).catch(() => {});
        break;
    }
  }

  #event(frame) {
    const topic = this.#topics.get(frame.topic);
    if (!topic) return;
    if (frame.seq) {
      // After a reconnect the hub may bring again what came last.
      if (frame.seq <= topic.seen) return;
      this.#reach(frame.topic, topic, topic.epoch, frame.seq);
    }
    topic.handlers.onEvent(frame);
  }

  #reach(name, topic, epoch, seq) {
    topic.epoch = epoch;
    topic.seen = seq;
    topic.position = { epoch, seq };
    this.#toAck.set(name, topic.position);
  }

  #verdicts(verdicts) {
    for (const verdict of verdicts) {
      const topic = this.#topics.get(verdict.topic);
      if (!topic) continue;
      if (!verdict.ok) {
        if (verdict.error.code !== "already_subscribed") this.#end(verdict.topic, verdict.error);
        continue;
      }
      if (topic.epoch !== null) continue; // a gap says if it is another one by now
      topic.epoch = verdict.epoch;
      if (topic.begin.since === "now" && verdict.epoch) {
        topic.seen = verdict.seq;
        topic.position = { epoch: verdict.epoch, seq: verdict.seq };
      }
    }
  }

  #end(name, error) {
    const topic = this.#topics.get(name);
    this.#topics.delete(name);
    topic?.handlers.onEnd?.(new HubError(error));
  }

  #item(name) {
    const { begin, position } = this.#topics.get(name);
    if (!position) return { topic: name, ...begin };
    return { topic: name, since: position, ...(begin.filter && { filter: begin.filter }) };
  }

  #ask(frame) {
    return new Promise((resolve, reject) => {
      if (!this.#up) {
        reject(new HubError({ code: "connection_lost", message: "there is no connection just now" }));
        return;
      }
      const id = ++this.#ids;
      this.#waiting.set(id, { resolve, reject });
      this.#socket.send(JSON.stringify({ ...frame, id }));
    });
  }

  #acknowledge() {
    if (!this.#up || this.#toAck.size === 0) return;
    this.#socket.send(JSON.stringify({ type: "ack", positions: Object.fromEntries(this.#toAck) }));
    this.#toAck.clear();
  }

  /** A hub that says nothing for twice its heartbeat is gone, whatever the socket believes. */
  #listen() {
    if (this.#up && Date.now() - this.#heardAt > 2 * this.#heartbeatMs) this.#socket.close(4000);
  }

  #lost(socket, closed) {
    if (socket !== this.#socket) return;
    this.#up = false;
    for (const { reject } of this.#waiting.values()) {
      reject(new HubError({ code: "connection_lost", message: "the connection went before the answer came" }));
    }
    this.#waiting.clear();
    if (this.#closed) return;
    const fatal = FATAL.has(closed.code);
    this.onState("down", `${closed.code} ${closed.reason}`.trim() + (fatal ? "; not trying again" : ""));
    if (fatal) return;
    const most = Math.min(BACKOFF_MS.most, BACKOFF_MS.first * 2 ** this.#attempt++);
    setTimeout(() => this.#connect(), this.#ticket ? 0 : Math.random() * most);
  }

  #every(ms, work) {
    this.#timers.add(setInterval(work, ms));
  }
}
