/**
 * A client of the hub for browsers: one socket, many topics, nothing lost over a reconnect. No dependency.
 *
 * docs/protocol.md is the contract. What it leaves to the Python client: acknowledgement windows, msgpack.
 */

const PROTOCOL = "hub.v1.json";
const BYE = 1000;
const NOT_AUTHENTICATED = 4401;
/** Close codes after which trying again unchanged is of no use. */
const FATAL = new Set([BYE, 1002, 1007, 4400, 4403, 4405, 4409, 4413]);
const LOOK_MS = 1000;
const MOVE_MS = 50;
/** Before the bytes of a chunk: its handle, and where it begins. */
const CHUNK_HEAD_BYTES = 12;

/** How long things may take, in milliseconds; the third argument of `HubClient` changes some. */
const OPTIONS = {
  /** The longest pause before the first attempt to come back; doubles with every further one, up to `mostBackoffMs`. */
  backoffMs: 250,
  mostBackoffMs: 10_000,
  /** A connection that lived this long starts the backoff anew. */
  stableMs: 5000,
  /** From the first packet to `welcome`. */
  welcomeMs: 10_000,
  /** How long a connection that is to be left waits for answers; the hub itself closes it after 5 s. */
  lingerMs: 4000,
};

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
 * One topic as this client has it. Frames of it count only while it is `live`: what comes before its verdict belongs
 * to an earlier subscription of the same topic.
 */
class Subscription {
  /** @type {"out" | "joining" | "live"} Not asked for on this connection, no verdict yet, subscribed. */
  state = "out";
  epoch = "";
  /** The last number of this epoch that came: what is not beyond it is a repeat. */
  seen = 0;
  /** Where to go on after a reconnect. @type {{epoch: string, seq: number} | null} */
  position = null;
  unacknowledged = false;
  /** Refusals in a row. */
  refusals = 0;

  constructor(topic, handlers, options) {
    this.topic = topic;
    this.handlers = handlers;
    this.first = "since" in options || "last" in options ? options : { ...options, since: "now" };
    if (typeof this.first.since === "object") this.position = this.first.since;
  }

  /** What to ask the hub for. */
  item() {
    const { filter } = this.first;
    if (this.position === null) return { topic: this.topic, ...this.first };
    return { topic: this.topic, since: this.position, ...(filter && { filter }) };
  }

  joined({ epoch, seq }) {
    const liveOnly = this.first.since === "now" || this.first.last === 0;
    if (this.position === null && epoch && (liveOnly || seq === 0)) this.position = { epoch, seq };
    this.state = "live";
    this.refusals = 0;
    this.epoch = epoch;
    this.seen = this.position?.epoch === epoch ? this.position.seq : 0;
  }

  event(frame) {
    if (frame.seq) {
      // After a reconnect the hub may bring again what came last.
      if (frame.seq <= this.seen) return;
      this.#reach(this.epoch, frame.seq);
    }
    this.handlers.onEvent(frame);
  }

  moved({ epoch, seq }) {
    if (epoch === this.epoch && seq > this.seen) this.#reach(epoch, seq);
  }

  gap(frame) {
    if (frame.to) {
      if (frame.epoch === this.epoch && frame.to <= this.seen) return;
      this.#reach(frame.epoch, frame.to);
    } else {
      // Another epoch. The old position stays until there is an event: only it tells where this client came from.
      this.epoch = frame.epoch;
      this.seen = 0;
    }
    this.handlers.onGap?.(frame);
  }

  #reach(epoch, seq) {
    this.epoch = epoch;
    this.seen = seq;
    this.position = { epoch, seq };
    this.unacknowledged = true;
  }
}

/** A handle on the connection that it was given on: by it chunks go out, until `close` or until the connection is lost. */
class Handle {
  #socket;
  #number;
  #handles;

  constructor(socket, number, handles) {
    this.#socket = socket;
    this.#number = number;
    this.#handles = handles;
  }

  /** Bytes that wait to be sent, of this handle or anything else: whatever is sent now goes out after them. */
  get unsent() {
    return this.#socket.bufferedAmount;
  }

  /** @param {number} offset where in the upload `bytes` begin @param {ArrayBuffer} bytes at least one */
  send(offset, bytes) {
    const message = new Uint8Array(CHUNK_HEAD_BYTES + bytes.byteLength);
    const head = new DataView(message.buffer);
    head.setUint32(0, this.#number);
    head.setBigUint64(4, BigInt(offset));
    message.set(new Uint8Array(bytes), CHUNK_HEAD_BYTES);
    this.#socket.send(message); // a socket that is closed drops it
  }

  /** Whoever bound it hears nothing of it any more. The hub is told by a method of the service. */
  close() {
    this.#handles.delete(this.#number);
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
  /** Who this is; known from the first welcome on. */
  user = "";

  #url;
  #token;
  #options;
  /** The present connection, or attempt at one. @type {WebSocket | null} */
  #socket = null;
  /** Whether it has been welcomed, and when. */
  #up = false;
  #upAt = 0;
  #heardAt = 0;
  #heartbeatMs = 25_000;
  #closed = false;
  #session = "";
  #ticket = "";
  /** Attempts, and refusals of tickets and tokens, in a row. */
  #attempts = 0;
  #refusals = 0;
  #ids = 0;
  /** @type {Map<string, Subscription>} */
  #topics = new Map();
  /** What the last `hello` asked for. @type {Map<string, Subscription>} */
  #greeted = new Map();
  /** By id of the request: whom to tell. */
  #waiting = new Map();
  /** Of this connection. @type {Map<number, any>} */
  #handles = new Map();
  #look;

  /**
   * @param {string} url
   * @param {() => string | Promise<string>} token asked for at every connection, and when the last one is about to end
   * @param {Partial<typeof OPTIONS>} [options]
   */
  constructor(url, token, options = {}) {
    this.#url = url;
    this.#token = token;
    this.#options = { ...OPTIONS, ...options };
    this.#look = setInterval(() => this.#lookAround(), LOOK_MS);
    queueMicrotask(() => this.#connect()); // after `onState` was set
  }

  /**
   * Every event of a topic once, in order. What passes (`unavailable`, `rate_limited`) is tried again; `onEnd` tells
   * of what does not. A topic is subscribed once at a time: throws when it is already.
   *
   * @param {string} topic
   * @param {{onEvent: (event: any) => void, onGap?: (gap: any) => void, onEnd?: (error: HubError) => void}} handlers
   * @param {{since?: "start" | "now" | {epoch: string, seq: number}, last?: number, filter?: object}} [options]
   * @returns {() => void} ends the subscription
   */
  subscribe(topic, handlers, options = {}) {
    if (this.#topics.has(topic)) throw new Error(`this client is subscribed to ${topic} already`);
    const subscription = new Subscription(topic, handlers, options);
    this.#topics.set(topic, subscription);
    this.#join(subscription);
    return () => this.#leave(subscription);
  }

  /**
   * Calls a method of a service.
   *
   * @returns {Promise<any>} rejects with `HubError`; `connection_lost`: it may have happened
   */
  call(method, params = {}) {
    return this.#ask({ type: "call", method, params });
  }

  /** Publishes an event; with a `key` it may be repeated safely. @returns {Promise<{epoch: string, seq: number}>} */
  publish(topic, name, data, key = undefined) {
    return this.#ask({ type: "publish", topic, name, data, ...(key && { key }) });
  }

  /**
   * Binds a handle to who sends chunks by it. `number` is what the answer to a call has just brought: nothing else may be
   * awaited before, because it belongs to the connection that the answer came over.
   *
   * `onCredit`: everything below `offset` is safe, and `window` bytes from there on may be under way. `onError`:
   * `details.offset`, if it is there, is the byte that is expected. `onLost`: the connection is gone, and the handle.
   *
   * @param {number} number
   * @param {{onCredit: (credit: {offset: number, window: number}) => void, onError: (error: HubError) => void, onLost: () => void}} listener
   * @returns {Handle}
   */
  handle(number, listener) {
    const handle = new Handle(this.#socket, number, this.#handles);
    this.#handles.set(number, listener);
    return handle;
  }

  /** Ends it for good. */
  close() {
    this.#drop("closed", BYE);
  }

  // --- the connection

  async #connect() {
    const ticket = this.#ticket;
    this.#ticket = "";
    try {
      const token = ticket ? "" : await this.#token();
      if (!this.#closed) this.#open(ticket, token);
    } catch (error) {
      this.#lost(0, String(error));
    }
  }

  #open(ticket, token) {
    const address = new URL(this.#url);
    if (ticket) address.searchParams.set("ticket", ticket);
    const socket = new WebSocket(address, PROTOCOL);
    this.#socket = socket;
    this.#heardAt = Date.now();
    // A socket that was given up may still have something to say.
    const current = (act) => (event) => socket === this.#socket && act(event);
    socket.onopen = current(() => this.#greet(token));
    socket.onmessage = current((message) => this.#take(JSON.parse(message.data)));
    socket.onclose = current((closed) => this.#lost(closed.code, closed.reason));
  }

  #greet(token) {
    this.#greeted = new Map(this.#topics);
    const items = [];
    for (const subscription of this.#greeted.values()) {
      subscription.state = "joining";
      items.push(subscription.item());
    }
    const hello = { type: "hello", id: ++this.#ids, subscribe: items };
    if (token) hello.token = token;
    if (this.#session) hello.resume = { session: this.#session };
    this.#send(hello);
  }

  #take(frame) {
    this.#heardAt = Date.now();
    const topic = this.#topics.get(frame.topic);
    const live = topic?.state === "live" ? topic : undefined;
    switch (frame.type) {
      case "welcome":
        this.#welcome(frame);
        break;
      case "event":
        live?.event(frame);
        break;
      case "position":
        live?.moved(frame);
        break;
      case "gap":
        live?.gap(frame);
        break;
      case "unsubscribed":
        if (live) this.#refused(live, new HubError(frame));
        break;
      case "reply":
        this.#answered(frame.id)?.resolve(frame.result);
        break;
      case "credit":
        this.#handles.get(frame.handle)?.onCredit(frame);
        break;
      case "error":
        if (frame.id) this.#answered(frame.id)?.reject(new HubError(frame));
        else this.#handles.get(frame.details?.handle)?.onError(new HubError(frame));
        break;
      case "drain":
        this.#ticket = frame.ticket;
        this.#later(frame.after_ms, () => this.#move(Date.now() + this.#options.lingerMs));
        break;
      case "expiring":
        this.#renew();
        break;
    }
  }

  #welcome(frame) {
    this.#session = frame.session;
    this.user = frame.user;
    this.#heartbeatMs = frame.heartbeat_ms;
    this.#up = true;
    this.#upAt = Date.now();
    this.#refusals = 0;
    for (const verdict of frame.topics) {
      const subscription = this.#greeted.get(verdict.topic);
      if (subscription && this.#topics.get(verdict.topic) === subscription) this.#verdict(subscription, verdict);
      else if (verdict.ok) this.#unsubscribe(verdict.topic); // left since the hello
    }
    for (const subscription of this.#topics.values()) {
      if (this.#greeted.get(subscription.topic) !== subscription) this.#join(subscription); // new since the hello
    }
    this.onState("up", `${frame.user} of ${frame.org}`);
  }

  /** Leaves a connection that drains when every answer has come. */
  #move(latest) {
    if (this.#waiting.size === 0 || Date.now() >= latest) this.#drop("moving");
    else this.#later(MOVE_MS, () => this.#move(latest));
  }

  /** Brings a fresh token, until it is taken or the connection ends: with the old token at the latest. */
  async #renew(attempt = 0) {
    const socket = this.#socket;
    try {
      const token = await this.#token();
      if (socket === this.#socket) await this.#ask({ type: "auth", token });
    } catch (error) {
      if (socket !== this.#socket) return;
      this.#later(this.#pauseMs(attempt, error?.retryAfterMs), () => this.#renew(attempt + 1));
    }
  }

  #lookAround() {
    this.#acknowledge();
    // A hub that says nothing for twice its heartbeat is gone, whatever the socket believes.
    const patienceMs = this.#up ? 2 * this.#heartbeatMs : this.#options.welcomeMs;
    if (this.#socket !== null && Date.now() - this.#heardAt > patienceMs) this.#drop("the hub is silent");
  }

  /** Ends the connection without waiting for the other side. */
  #drop(reason, code = 0) {
    this.#acknowledge();
    this.#socket?.close(BYE);
    this.#lost(code, reason);
  }

  /** There is no connection any more. `code` says if there is to be another one; 0: there is. */
  #lost(code, reason) {
    if (this.#closed) return;
    if (this.#up && Date.now() - this.#upAt > this.#options.stableMs) this.#attempts = 0;
    this.#socket = null;
    this.#up = false;
    for (const subscription of this.#topics.values()) subscription.state = "out";
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    const lost = { code: "connection_lost", message: "the connection went before the answer came" };
    for (const { reject } of waiting) reject(new HubError(lost));
    const handles = [...this.#handles.values()];
    this.#handles = new Map();
    for (const { onLost } of handles) onLost();

    if (code === NOT_AUTHENTICATED) this.#refusals += 1;
    // A ticket or an old token may be refused; after that a fresh token had its chance.
    if (FATAL.has(code) || this.#refusals > 1) this.#closed = true;
    let next = "not trying again";
    if (this.#closed) {
      clearInterval(this.#look);
    } else {
      const pauseMs = this.#ticket ? 0 : this.#pauseMs(this.#attempts++);
      setTimeout(() => this.#closed || this.#connect(), pauseMs);
      next = `next attempt in ${Math.round(pauseMs)} ms`;
    }
    this.onState("down", `${code || ""} ${reason}; ${next}`.trim());
  }

  // --- the topics

  /** Asks for a topic. While there is no connection: the next hello does, or the welcome that is awaited. */
  #join(subscription) {
    if (!this.#up || subscription.state !== "out" || this.#topics.get(subscription.topic) !== subscription) return;
    subscription.state = "joining";
    this.#request(
      { type: "subscribe", topics: [subscription.item()] },
      (result) => this.#verdict(subscription, result.topics[0]),
      (error) => this.#refused(subscription, error),
    );
  }

  #leave(subscription) {
    if (this.#topics.get(subscription.topic) !== subscription) return;
    this.#acknowledge();
    this.#topics.delete(subscription.topic);
    if (this.#up && subscription.state !== "out") this.#unsubscribe(subscription.topic);
    subscription.state = "out";
  }

  #unsubscribe(topic) {
    this.#ask({ type: "unsubscribe", topics: [topic] }).catch(() => {});
  }

  #verdict(subscription, verdict) {
    if (!verdict.ok) this.#refused(subscription, new HubError(verdict.error));
    else if (subscription.state === "joining") subscription.joined(verdict);
  }

  #refused(subscription, error) {
    if (subscription.state === "out") return; // left, or the connection is lost: then the next hello asks
    subscription.state = "out";
    // Something else is to be used instead of what is switched off.
    if (error.retry !== "never" && error.code !== "feature_disabled") {
      this.#later(this.#pauseMs(subscription.refusals++, error.retryAfterMs), () => this.#join(subscription));
      return;
    }
    this.#topics.delete(subscription.topic);
    queueMicrotask(() => subscription.handlers.onEnd?.(error)); // what it throws is not to stop what goes on here
  }

  #acknowledge() {
    if (!this.#up) return;
    const positions = {};
    for (const subscription of this.#topics.values()) {
      if (subscription.state !== "live" || !subscription.unacknowledged) continue;
      positions[subscription.topic] = subscription.position;
      subscription.unacknowledged = false;
    }
    if (Object.keys(positions).length > 0) this.#send({ type: "ack", positions });
  }

  // --- small things

  #ask(frame) {
    return new Promise((resolve, reject) => this.#request(frame, resolve, reject));
  }

  #request(frame, resolve, reject) {
    if (!this.#up) {
      const message = this.#closed ? "this client is closed" : "there is no connection just now";
      reject(new HubError({ code: "connection_lost", message, retry: this.#closed ? "never" : "later" }));
      return;
    }
    const id = ++this.#ids;
    this.#waiting.set(id, { resolve, reject });
    this.#send({ ...frame, id });
  }

  #answered(id) {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    return waiting;
  }

  #send(frame) {
    this.#socket.send(JSON.stringify(frame));
  }

  /** Does something later, unless the connection is another one by then. */
  #later(ms, act) {
    const socket = this.#socket;
    setTimeout(() => socket === this.#socket && act(), ms);
  }

  /** Full jitter over a bound that doubles. */
  #pauseMs(attempt, leastMs = 0) {
    const mostMs = Math.min(this.#options.mostBackoffMs, this.#options.backoffMs * 2 ** attempt);
    return Math.max(leastMs, Math.random() * mostMs);
  }
}
