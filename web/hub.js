/**
 * A client of the hub for browsers: one connection, many topics, nothing lost over a reconnect. Where a WebSocket does not
 * get through, or is switched off, it goes on over server-sent events or polls, and comes back up. No dependency.
 *
 * docs/protocol.md is the contract, docs/transports.md says what differs between the three. What it leaves to the Python
 * client: acknowledgement windows, msgpack.
 */

import { Ladder } from "./ladder.js";
import { ofConnection, PollLine, SocketLine, StreamLine } from "./lines.js";
import { HubError, Requests } from "./requests.js";
import { Subscription } from "./subscription.js";
import { Trial } from "./trial.js";

export { HubError };

const LINES = { websocket: SocketLine, sse: StreamLine, poll: PollLine };
const BYE = 1000;
/** What a browser calls the end of a WebSocket that nobody has announced. */
const ABNORMAL = 1006;
const NOT_AUTHENTICATED = 4401;
/** Close codes after which trying again unchanged is of no use. */
const FATAL = new Set([BYE, 1002, 1007, 4400, 4403, 4405, 4409, 4413]);
const LOOK_MS = 1000;
const MOVE_MS = 50;
/** Before the bytes of a chunk: its handle, and where it begins. */
const CHUNK_HEAD_BYTES = 12;

/** The third argument of `HubClient` changes some. Times are in milliseconds. */
const OPTIONS = {
  /** By which transports it may go, the best first. */
  transports: ["websocket", "sse", "poll"],
  /** What comes before `/v1` over HTTP; else the WebSocket's address without its last part. */
  httpUrl: "",
  /** How a WebSocket is made. @type {(address: URL, protocol: string) => WebSocket} */
  makeSocket: (address, protocol) => new WebSocket(address, protocol),
  /** The longest pause before the first attempt to come back; doubles with every further one, up to `mostBackoffMs`. */
  backoffMs: 250,
  mostBackoffMs: 10_000,
  /** A connection that lived this long starts the backoff anew. */
  stableMs: 5000,
  /** From the first packet to `welcome`; and as long as it is not known whether a transport works, and there is another. */
  welcomeMs: 10_000,
  doubtMs: 5000,
  /** A connection that lived this long was not cut by something on its way; after three in a row that did not it goes another one. */
  shortLifeMs: 30_000,
  /** How long a connection that is to be left for a new one of its kind waits for answers; the hub itself closes it after 5 s. */
  lingerMs: 4000,
  /** Over another transport than the best: how long until that is tried again; doubles, up to `mostUpgradeMs`. */
  upgradeMs: 30_000,
  mostUpgradeMs: 600_000,
  /** Within this time, at random, clients move when a flag has changed: all of them hear of it at once. */
  moveMs: 1000,
  /** How long a topic that is switched off waits until it is asked for again; doubles. A `flags` frame may be sooner. */
  restMs: 5000,
  mostRestMs: 60_000,
};

/** A handle on the connection that it was given on: by it chunks go out, until `close` or until the connection is lost. */
class Handle {
  #line;
  #number;
  #handles;

  constructor(line, number, handles) {
    this.#line = line;
    this.#number = number;
    this.#handles = handles;
  }

  /** Bytes that wait to be sent, of this handle or anything else: whatever is sent now goes out after them. */
  get unsent() {
    return this.#line.unsent;
  }

  /** @param {number} offset where in the upload `bytes` begin @param {ArrayBuffer} bytes at least one */
  send(offset, bytes) {
    const message = new Uint8Array(CHUNK_HEAD_BYTES + bytes.byteLength);
    const head = new DataView(message.buffer);
    head.setUint32(0, this.#number);
    head.setBigUint64(4, BigInt(offset));
    message.set(new Uint8Array(bytes), CHUNK_HEAD_BYTES);
    this.#line.sendBytes(message);
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
  /**
   * Called with `"up"` or `"down"` and why; `"up"` at every new connection, also when it takes the place of one that
   * works over another `transport`.
   *
   * @type {(state: "up" | "down", detail: string) => void}
   */
  onState = () => {};
  /** Some flags have another value for this user. @type {(flags: Record<string, boolean>, changed: string[]) => void} */
  onFlags = () => {};
  /** What is switched on for this user, as the hub has told it. @type {Record<string, boolean>} */
  flags = {};
  /** Who this is; known from the first welcome on. */
  user = "";

  #url;
  #token;
  #lastToken = "";
  #options;
  /** The present connection, or attempt at one. @type {SocketLine | StreamLine | PollLine | null} */
  #line = null;
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
  /** What the last `hello` asked for, and from where on. @type {Map<Subscription, {epoch: string, seq: number} | null>} */
  #greeted = new Map();
  #requests = new Requests();
  /** The connection that has brought the last answer. */
  #answeredBy = null;
  /** Of this connection. @type {Map<number, any>} */
  #handles = new Map();
  #look;

  #ladder;
  /** Another connection that is tried while the present one goes on. @type {Trial | null} */
  #trial = null;
  /** By which transports the hub wants all of this client, since the slot of a `drain`. @type {string[]} */
  #sent = [];
  /** A descent is due soon. And how many came to nothing, in a row. */
  #descending = 0;
  #vainDescents = 0;

  /**
   * @param {string} url
   * @param {() => string | Promise<string>} token asked for at every connection, and when the last one is about to end
   * @param {Partial<typeof OPTIONS>} [options]
   */
  constructor(url, token, options = {}) {
    this.#url = new URL(url);
    this.#token = token;
    this.#options = { ...OPTIONS, ...options };
    this.#ladder = new Ladder(this.#options, this.#url.host);
    this.#look = setInterval(() => this.#lookAround(), LOOK_MS);
    queueMicrotask(() => this.#connect()); // after `onState` was set
  }

  /** Over which transport it is connected, or tries to be. @returns {"websocket" | "sse" | "poll"} */
  get transport() {
    return this.#ladder.transport;
  }

  /**
   * Every event of a topic once, in order. What passes (`unavailable`, `rate_limited`) is tried again; `onEnd` tells
   * of what does not. A topic that is switched off (`feature_disabled`) after it was live pauses until it is on again;
   * `onPause` and `onResume` tell. A topic is subscribed once at a time: throws when it is already.
   *
   * @param {string} topic
   * @param {{onEvent: (event: any) => void, onGap?: (gap: any) => void, onEnd?: (error: HubError) => void,
   *   onPause?: (error: HubError) => void, onResume?: () => void}} handlers
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
   * Asks the hub something over HTTP, with a token. @param {string} path from `/v1` on, or another address of the hub
   * @param {RequestInit} [init] @returns {Promise<Response>} rejects when no answer came
   */
  async fetch(path, init = {}) {
    const ask = (token) => {
      const headers = { ...init.headers, Authorization: `Bearer ${token}` };
      return fetch(this.#base + path, { cache: "no-store", credentials: "omit", ...init, headers });
    };
    const answer = await ask(this.#lastToken || (await this.#freshToken()));
    return answer.status === 401 ? ask(await this.#freshToken()) : answer;
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
    const left = this.#answeredBy !== this.#line;
    // A connection that was left meanwhile brings answers, and takes no bytes.
    if (left) queueMicrotask(() => listener.onLost());
    else this.#handles.set(number, listener);
    return new Handle(this.#answeredBy, number, left ? new Map() : this.#handles);
  }

  /** Ends it for good. */
  close() {
    this.#drop("closed", BYE);
  }

  // --- the connection

  async #connect() {
    const ticket = this.transport === "websocket" ? this.#ticket : ""; // one-use: what else there is asks more than once
    this.#ticket = "";
    let token;
    try {
      token = ticket ? "" : await this.#freshToken();
    } catch (error) {
      this.#lost(0, String(error), { tried: false });
      return;
    }
    if (!this.#closed) this.#open(ticket, token);
  }

  #open(ticket, token) {
    this.#heardAt = Date.now();
    try {
      this.#line = this.#makeLine(this.transport, ticket, token);
    } catch (error) {
      this.#lost(0, String(error)); // no WebSocket is to be had here
    }
  }

  /** @param {Trial | null} trial what it is made for, if it is not to be the present one at once */
  #makeLine(transport, ticket, token, trial = null) {
    const way = { url: this.#url, base: this.#base, ticket, token, makeSocket: this.#options.makeSocket };
    const line = new LINES[transport](way, {
      onOpen: () => this.#greet(line, token, trial),
      onSign: () => {
        if (line === this.#line) this.#heardAt = Date.now();
      },
      onFrame: (frame) => {
        if (trial?.open) trial.hear(frame);
        else this.#hear(line, frame);
      },
      onClose: (code, reason, retryAfterMs) => {
        if (trial?.open) trial.end();
        else if (line !== this.#line) this.#requests.lost(line);
        else this.#lost(code, reason, { retryAfterMs, cut: code === 0 || code === ABNORMAL });
      },
    });
    return line;
  }

  get #base() {
    if (this.#options.httpUrl) return this.#options.httpUrl.replace(/\/$/, "");
    const scheme = this.#url.protocol.replace("ws", "http");
    return `${scheme}//${this.#url.host}${this.#url.pathname.replace(/\/[^/]*$/, "")}`;
  }

  #greet(line, token, trial) {
    const greeted = this.#wanted;
    if (trial === null) this.#joinAll((this.#greeted = greeted));
    else trial.greeted = greeted;
    // What is tried has a session of its own: the present one is not disturbed.
    const resume = this.#session && trial === null ? { resume: { session: this.#session } } : {};
    const items = Array.from(greeted.keys(), (subscription) => subscription.item());
    line.send({ type: "hello", id: ++this.#ids, subscribe: items, ...(token && { token }), ...resume });
  }

  #hear(line, frame) {
    if (line === this.#line) this.#take(frame);
    // Of a connection that was left for another one: what it was asked before.
    else if (frame.type === "reply") this.#answered(frame.id)?.resolve(frame.result);
    else if (frame.type === "error") this.#answered(frame.id)?.reject(new HubError(frame));
  }

  #take(frame) {
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
      case "flags":
        this.#flagged({ ...this.flags, ...frame.flags });
        break;
      case "reply":
        this.#answered(frame.id)?.resolve(frame.result);
        break;
      case "credit":
        this.#handles.get(frame.handle)?.onCredit(frame);
        break;
      case "error":
        this.#failed(frame, new HubError(frame));
        break;
      case "drain":
        if (!frame.fallback) this.#ticket = frame.ticket;
        this.#later(frame.after_ms, () => this.#drained(frame.fallback));
        break;
      case "expiring":
        this.#renew();
        break;
    }
  }

  #failed({ id, details }, error) {
    if (this.#requests.has(id)) this.#answered(id).reject(error);
    else if (!this.#up) this.#turnedAway(error);
    else this.#handles.get(details?.handle)?.onError(error);
  }

  #welcome(frame) {
    this.#session = frame.session;
    this.user = frame.user;
    this.#heartbeatMs = frame.heartbeat_ms;
    if (this.#up) this.#greeted = this.#wanted; // polls came to another node, which has something to say
    const again = this.#up;
    this.#up = true;
    if (!again) {
      this.#upAt = this.#heardAt = Date.now();
      this.#refusals = 0;
      this.#ladder.arrived();
    }
    for (const verdict of frame.topics) {
      const subscription = this.#topics.get(verdict.topic);
      if (verdict.ok && subscription?.hasLeft(this.#greeted.get(subscription))) {
        this.#greeted.delete(subscription);
        subscription.state = "out";
      }
      if (this.#greeted.has(subscription)) this.#verdict(subscription, verdict);
      else if (verdict.ok) this.#unsubscribe(verdict.topic); // left since the hello
    }
    for (const subscription of this.#topics.values()) {
      if (!this.#greeted.has(subscription)) this.#join(subscription); // new since the hello, or further on
    }
    this.#flagged(frame.flags ?? {});
    if (!again) this.onState("up", `${frame.user} of ${frame.org}`);
  }

  /** What a hello is answered when the WebSocket is not for this user. */
  #turnedAway({ fallback }) {
    this.#ladder.told = this.#ladder.below(fallback)[0] ?? null;
    // So that it is news when the next welcome has it on.
    if (this.#ladder.told !== null) this.flags = { ...this.flags, realtime_v2: false };
  }

  /** The time has come at which the hub wants this connection to go. */
  #drained(fallback) {
    if (fallback) {
      this.#sent = fallback;
      this.#descend();
    } else this.#move();
  }

  /** Leaves this connection when every answer has come, for another one of the same transport. */
  #move(latest = Date.now() + this.#options.lingerMs) {
    if (this.#requests.awaits(this.#line) && Date.now() < latest) {
      this.#later(MOVE_MS, () => this.#move(latest));
      return;
    }
    this.#ladder.told = this.#ladder.rung;
    this.#drop("moving");
  }

  /** Brings a fresh token, until it is taken or the connection ends: with the old token at the latest. */
  async #renew(attempt = 0) {
    const line = this.#line;
    try {
      const token = await this.#freshToken();
      if (line === this.#line) await this.#ask({ type: "auth", token });
    } catch (error) {
      if (line !== this.#line) return;
      this.#later(this.#pauseMs(attempt, error?.retryAfterMs), () => this.#renew(attempt + 1));
    }
  }

  #lookAround() {
    this.#acknowledge();
    // A hub that says nothing for twice its heartbeat is gone, whatever the socket believes.
    const patienceMs = this.#up ? 2 * this.#heartbeatMs : this.#ladder.patienceMs();
    if (this.#line !== null && Date.now() - this.#heardAt > patienceMs) this.#drop("the hub is silent", 0, { cut: this.#up, endedAt: this.#heardAt });
    else if (this.#ladder.due && !globalThis.document?.hidden) this.#climb();
  }

  /** Ends the connection without waiting for the other side. */
  #drop(reason, code = 0, how = {}) {
    this.#acknowledge();
    this.#line?.close();
    this.#lost(code, reason, how);
  }

  /** There is no connection any more. `code` says if there is to be another one; 0: there is. `cut`: nobody has announced it. */
  #lost(code, reason, { retryAfterMs = 0, tried = true, cut = false, endedAt = Date.now() } = {}) {
    if (this.#closed) return;
    if (this.#up && Date.now() - this.#upAt > this.#options.stableMs) this.#attempts = 0;
    if (code === NOT_AUTHENTICATED) this.#refusals += 1;
    const elsewhere = this.#ladder.told !== null;
    // A ticket or an old token may be refused; after that a fresh token had its chance.
    if (code === BYE || (FATAL.has(code) && (this.#up || !elsewhere)) || this.#refusals > 1) this.#closed = true;
    if (tried) this.#ladder.ended(code, { silent: !this.#up || this.#mute, cut: cut && this.#up, livedMs: this.#up ? endedAt - this.#upAt : 0 });
    this.#abandon();
    this.#forsake();
    const line = this.#line;
    this.#line = null;
    this.#up = false;
    this.#requests.lost(line);
    if (this.#closed) this.#requests.close();

    let next = "not trying again";
    if (this.#closed) {
      clearInterval(this.#look);
    } else {
      const pauseMs = elsewhere || this.#ticket ? 0 : this.#pauseMs(this.#attempts++, retryAfterMs);
      setTimeout(() => this.#closed || this.#connect(), pauseMs);
      next = `next attempt in ${Math.round(pauseMs)} ms`;
    }
    this.onState("down", `${code || ""} ${reason}; ${next}`.trim());
  }

  /** What belongs to the present connection is lost with it. */
  #forsake() {
    this.#sent = [];
    for (const subscription of this.#topics.values()) subscription.state = "out";
    const handles = [...this.#handles.values()];
    this.#handles = new Map();
    for (const { onLost } of handles) onLost();
  }

  // --- which transport

  /** A stream whose welcome came, and nothing ever after, is held back on its way. */
  get #mute() {
    return this.transport === "sse" && this.#heardAt - this.#upAt < LOOK_MS && Date.now() - this.#heardAt > this.#heartbeatMs;
  }

  /** Where the hub wants this client to go on; nothing: it may stay. @returns {string[]} */
  get #elsewhere() {
    if (this.#sent.length > 0 && !this.flags.realtime_v2) return this.#sent;
    for (const { stranded } of this.#topics.values()) if (stranded) return stranded.fallback;
    return [];
  }

  /** A topic is not to be had over this transport, but over another one: goes there with everything, if that gets through. */
  #fall(subscription, error) {
    if (this.#ladder.below(error.fallback).length === 0) return false;
    subscription.stranded = error;
    this.#descending ||= setTimeout(() => {
      this.#descending = 0;
      this.#descend();
    }, Math.random() * this.#options.moveMs);
    return true;
  }

  /** Goes where the hub wants it, or stays if that can not be reached. Flags may have been flipped again meanwhile. */
  #descend() {
    if (!this.#up || this.#trial?.rung > this.#ladder.rung) return;
    const wanted = () => this.#elsewhere.length > 0;
    this.#try(this.#ladder.below(this.#elsewhere), wanted, () => this.#strand());
  }

  /** What is not to be had here waits, and nothing else does. */
  #strand() {
    const stranded = Array.from(this.#topics.values()).filter((subscription) => subscription.stranded);
    if (stranded.length === 0) return;
    for (const subscription of stranded) subscription.pause(subscription.stranded);
    this.#later(this.#restMs(this.#vainDescents++), () => this.#rejoin((subscription) => subscription.stranded));
  }

  /** Tries better transports, the best first. */
  #climb() {
    if (!this.#up || this.#ladder.rung === 0 || this.#trial !== null) return;
    this.#ladder.planUpgrade();
    // Where the flag is off the hub would say no; when that changes it tells.
    const barred = (rung) => this.#ladder.at(rung) === "websocket" && this.flags.realtime_v2 === false;
    this.#try(this.#ladder.above().filter((rung) => !barred(rung)), () => true);
  }

  /** Tries other transports beside the present one, one after the other; the first that has everything takes its place. */
  #try([rung, ...others], wanted, orElse = () => {}) {
    if (!wanted()) return;
    this.#abandon();
    if (rung === undefined) return void orElse();
    const trial = (this.#trial = new Trial(rung, this.#ladder.patienceMs(rung), (welcome) => {
      this.#trial = null;
      if (welcome !== null && wanted() && hasAll(welcome)) return void this.#adopt(trial, welcome);
      trial.abandon();
      this.#try(others, wanted, orElse);
    }));
    trial.begin(async () => {
      const token = await this.#freshToken();
      if (!trial.open) throw new Error("too late");
      return this.#makeLine(this.#ladder.at(rung), "", token, trial);
    });
  }

  /** Another connection takes the present one's place. What comes twice is told apart by its position. */
  #adopt({ line, rung, greeted }, welcome) {
    this.#acknowledge();
    this.#forsake();
    const left = this.#line;
    this.#line = line;
    this.#ladder.moved(rung);
    this.#up = false;
    this.#vainDescents = 0;
    this.#requests.leave(left);
    this.#joinAll((this.#greeted = greeted));
    this.#welcome(welcome);
  }

  #abandon() {
    this.#trial?.abandon();
    this.#trial = null;
  }

  #flagged(flags) {
    const names = Object.keys({ ...this.flags, ...flags });
    const known = this.flags;
    const changed = names.filter((name) => flags[name] !== known[name]);
    if (changed.length === 0) return;
    this.flags = flags;
    queueMicrotask(() => this.onFlags(flags, changed));
    if (!changed.some((name) => flags[name] && known[name] === false)) return;
    this.#rejoin((subscription) => subscription.paused || subscription.stranded);
    this.#vainDescents = 0;
    this.#ladder.hope();
    // Whatever the connection is by then: a move may be under way. What is tried has asked before this was on.
    setTimeout(() => {
      if (this.#trial?.rung < this.#ladder.rung) this.#abandon();
      this.#climb();
    }, Math.random() * this.#options.moveMs);
  }

  // --- the topics

  /** Asks for a topic. While there is no connection: the next hello does, or the welcome that is awaited. */
  #join(subscription) {
    if (!this.#up || subscription.state !== "out" || this.#topics.get(subscription.topic) !== subscription) return;
    subscription.joining();
    this.#request(
      { type: "subscribe", topics: [subscription.item()] },
      (result) => this.#verdict(subscription, result.topics[0]),
      (error) => this.#refused(subscription, error),
    );
  }

  /** Every topic, and where it is. */
  get #wanted() {
    return new Map(Array.from(this.#topics.values(), (subscription) => [subscription, subscription.position]));
  }

  /** The next welcome has their verdicts. */
  #joinAll(greeted) {
    for (const subscription of greeted.keys()) if (this.#topics.get(subscription.topic) === subscription) subscription.joining();
  }

  #rejoin(concerned) {
    for (const subscription of [...this.#topics.values()]) if (concerned(subscription)) this.#join(subscription);
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
    else if (subscription.state !== "out") subscription.joined(verdict);
  }

  #refused(subscription, error) {
    if (subscription.state === "out") return; // left, or the connection is lost: then the next hello asks
    subscription.state = "out";
    if (error.code === "feature_disabled") {
      if (this.#fall(subscription, error)) return;
      if (subscription.entered) return void this.#rest(subscription, error);
    } else if (error.retry !== "never") {
      this.#later(this.#pauseMs(subscription.refusals++, error.retryAfterMs), () => this.#join(subscription));
      return;
    }
    this.#topics.delete(subscription.topic);
    queueMicrotask(() => subscription.handlers.onEnd?.(error)); // what it throws is not to stop what goes on here
  }

  #rest(subscription, error) {
    subscription.pause(error);
    this.#later(this.#restMs(subscription.refusals++), () => this.#join(subscription));
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
    this.#requests.add(id, { frame, line: this.#line, resolve, reject });
    // What a connection over HTTP has to say may be lost with it while polls go to another node: then all is asked anew.
    const lost = () => this.#requests.has(id) && this.#drop("the hub does not answer");
    if (this.transport !== "websocket" && ofConnection(frame)) this.#later(this.#options.welcomeMs, lost);
    this.#send({ ...frame, id });
  }

  #answered(id) {
    const request = this.#requests.answered(id);
    this.#answeredBy = request?.line;
    return request;
  }

  #send(frame) {
    this.#line.send(frame);
  }

  /** Does something later, unless the connection is another one by then. */
  #later(ms, act) {
    const line = this.#line;
    setTimeout(() => line === this.#line && act(), ms);
  }

  async #freshToken() {
    this.#lastToken = await this.#token();
    return this.#lastToken;
  }

  /** Full jitter over a bound that doubles. */
  #pauseMs(attempt, leastMs = 0) {
    const mostMs = Math.min(this.#options.mostBackoffMs, this.#options.backoffMs * 2 ** attempt);
    return Math.max(leastMs, Math.random() * mostMs);
  }

  #restMs(attempt) {
    const { restMs, mostRestMs } = this.#options;
    return Math.min(mostRestMs, restMs * 2 ** attempt) * (0.5 + Math.random() / 2);
  }
}

/** No topic is switched off there that could be had elsewhere. */
function hasAll({ topics }) {
  return topics.every(({ ok, error }) => ok || error.code !== "feature_disabled" || new HubError(error).fallback.length === 0);
}
