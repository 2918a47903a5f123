/**
 * A chat room for browsers: what is said, who is here, who types, who has read. No dependency but hub.js.
 *
 * `RoomView` and `PresenceView` follow events and know nothing of sockets; `ChatRoom` feeds them. docs/chat.md and
 * docs/presence.md say what comes; `hub.client` has the same for Python.
 */

import { HubError } from "./hub.js";

/** How long things take, in milliseconds. */
const TYPING_EVERY_MS = 3000;
const TYPING_MOST_MS = 60_000;
const SNAPSHOT_PATIENCE_MS = 3000;
const ASK_AGAIN_MS = 500;
/** How much is kept. */
const MOST_LOGGED = 500;
const MOST_TYPING = 200;
const MOST_WAITING = 256;
const MOST_HELD = 5000;
const PAGE = 50;
/** Refusals that pass some day, but nobody waits for that. */
const NOT_SOON = new Set(["quota_exceeded", "feature_disabled"]);

/**
 * A message, or the tombstone of one: `deleted`, and no text. `html` is safe to show.
 *
 * @typedef {object} Message
 * @property {number} number its name, and its place: messages are in the order of their numbers
 * @property {string} author
 * @property {string} name
 * @property {string} [text]
 * @property {"text" | "markdown"} [format]
 * @property {string} [html]
 * @property {number} created_at
 * @property {number | null} [edited_at]
 * @property {number | null} reply_to
 * @property {string[]} [attachments] ids of uploads
 * @property {Record<string, string[]>} reactions who, by emoji
 * @property {boolean} deleted
 */

/**
 * The newest messages of a room, without a hole, and what belongs to them: `start` takes the newest page of
 * `chat.history`, `apply` every event since its `position`, `load` older pages, at any time. A message knows up to which
 * number its state is known, so that a page that is older or newer than the events makes no difference.
 */
export class RoomView {
  /** The fields of `chat.get`, kept up to date. @type {any} */
  room = null;
  /** Up to where who has read. @type {Map<string, number>} */
  reads = new Map();
  /** Whether there are older messages than those here. */
  moreBefore = false;

  #me;
  #most;
  /** Every event up to this number is applied or not needed. */
  #number = 0;
  /** The room's newest message. */
  #last = 0;
  /** @type {Map<number, {message: Message, known: number}>} In order. */
  #messages = new Map();
  /** Events that change messages, for pages that are older than them. @type {{name: string, data: any}[]} */
  #log = [];
  /** Those after this number are in the log. */
  #logFrom = 0;
  /** @type {Map<string, {name: string, until: number}>} */
  #typing = new Map();
  /** A batch of reads may come after its reader has left. @type {Set<string>} */
  #left = new Set();

  /**
   * @param {string} me the user who looks
   * @param {{most?: number}} [options] `most`: of messages; the oldest go
   */
  constructor(me, { most = 2000 } = {}) {
    this.#me = me;
    this.#most = most;
  }

  /** The oldest first. @returns {Message[]} */
  get messages() {
    return Array.from(this.#messages.values(), ({ message }) => message);
  }

  /** @param {number} number @returns {Message | undefined} */
  get(number) {
    return this.#messages.get(number)?.message;
  }

  /** The number of the first message here; 0: there is none. */
  get oldest() {
    return this.#messages.keys().next().value ?? 0;
  }

  /** The number of the room's newest message; 0: there is none. */
  get newest() {
    return this.#last;
  }

  /** How many of the messages here are new to the one who looks; nothing is to who is no member. */
  get unread() {
    if (!this.room?.role) return 0;
    const read = this.reads.get(this.#me) ?? 0;
    let count = 0;
    for (const number of this.#messages.keys()) if (number > read) count += 1;
    return count;
  }

  /** Who else has read a message, as far as is known. @param {number} number @returns {string[]} */
  readers(number) {
    const author = this.get(number)?.author;
    return [...this.reads].filter(([user, read]) => read >= number && user !== author).map(([user]) => user).sort();
  }

  /** The names of others who type. @param {number} now milliseconds, of the clock that `apply` is given */
  typing(now) {
    for (const [user, { until }] of this.#typing) if (until <= now) this.#typing.delete(user);
    return [...this.#typing].filter(([user]) => user !== this.#me).map(([, { name }]) => name);
  }

  /** Begins with the newest page, or anew after a gap; without `room`, which is read after the page, that stays. */
  start(page, room = this.room) {
    this.room = room && { ...room };
    this.#number = this.#logFrom = page.as_of;
    this.#messages.clear();
    this.#log = [];
    this.#left.clear();
    this.moreBefore = page.more_before;
    this.reads = new Map(Object.entries(page.reads));
    if (this.room?.role) this.reads.set(this.#me, Math.max(this.room.read ?? 0, this.reads.get(this.#me) ?? 0));
    this.#take(page);
    this.#last = page.messages.at(-1)?.number ?? 0;
  }

  /**
   * Takes the page before the message `before`. False: it is of no use, because too much has happened since, or the
   * first message is another by now; ask again.
   */
  load(page, before) {
    if (page.as_of < this.#logFrom || before !== this.oldest) return false;
    const later = [...this.#messages];
    this.#messages.clear();
    this.#take(page);
    for (const [number, kept] of later) this.#messages.set(number, kept);
    this.moreBefore = page.more_before;
    for (const { name, data } of this.#log) if (data.number > page.as_of) this.#change(name, data);
    return true;
  }

  /** Whether there is room for an older page. */
  get full() {
    return this.#messages.size + PAGE > this.#most;
  }

  /**
   * Takes an event of the room.
   *
   * @param {{name: string, data: any}} event
   * @param {number} now milliseconds of any clock
   * @returns {boolean} whether something may have changed; false: it was there before, or is none of a view
   */
  apply({ name, data }, now) {
    if (name === "typing") return this.#types(data, now);
    if (!(data?.number > this.#number)) return false;
    this.#number = data.number;
    if (name === "message.created") this.#created(data);
    else if (name === "read") this.#read(data.readers);
    else if (name === "room.changed") Object.assign((this.room ??= {}), data.room);
    else if (name.startsWith("member.")) this.#member(name, data);
    else if (!this.#change(name, data)) return false;
    return true;
  }

  /** Oneself has read so far: what `chat.read` answered. @param {number} number */
  ownRead(number) {
    this.reads.set(this.#me, Math.max(number, this.reads.get(this.#me) ?? 0));
  }

  // --- inside

  #take(page) {
    for (const message of page.messages) this.#messages.set(message.number, { message, known: page.as_of });
  }

  #created({ number, message }) {
    this.#last = number;
    this.#typing.delete(message.author);
    if (!this.#left.has(message.author)) this.reads.set(message.author, number); // whoever writes has read
    this.#messages.set(number, { message, known: number });
    if (this.#messages.size <= this.#most) return;
    this.#messages.delete(this.oldest);
    this.moreBefore = true;
  }

  /** Changes messages that are here. May be given an event again, for a page that was older than it. */
  #change(name, data) {
    const { number } = data;
    if (name === "message.edited") {
      // Its reactions are not said again.
      const edited = (message) => ({ ...data.message, reactions: message.reactions });
      if (!data.message.superseded) this.#put(data.message.number, number, edited);
    } else if (name === "message.deleted") {
      for (const target of data.messages) this.#put(target, number, (message) => tombstone(message, data));
    } else if (name === "reaction") {
      this.#put(data.message, number, (message) => reacted(message, data));
    } else {
      return false;
    }
    if (number > (this.#log.at(-1)?.data.number ?? this.#logFrom)) {
      this.#log.push({ name, data });
      if (this.#log.length > MOST_LOGGED) this.#logFrom = this.#log.shift().data.number;
    }
    return true;
  }

  #put(target, number, change) {
    const kept = this.#messages.get(target);
    if (kept && kept.known < number) this.#messages.set(target, { message: change(kept.message), known: number });
  }

  #read(readers) {
    for (const [user, read] of Object.entries(readers)) {
      if (!this.#left.has(user)) this.reads.set(user, Math.max(read, this.reads.get(user) ?? 0));
    }
  }

  #member(name, data) {
    const { user } = data;
    const mine = user === this.#me && this.room;
    if (name === "member.left") {
      this.reads.delete(user);
      this.#typing.delete(user);
      this.#left.add(user);
      if (mine) this.room.role = null;
      return;
    }
    if (name === "member.joined") {
      this.#left.delete(user);
      if (this.#last) this.reads.set(user, this.#last); // what was said before is not new
    }
    if (mine) Object.assign(this.room, { role: data.role, muted_until: data.muted_until ?? null });
  }

  #types({ user, name, on, expires_in_ms: ms }, now) {
    this.#typing.delete(user);
    if (on && this.#typing.size < MOST_TYPING) this.#typing.set(user, { name: name || user, until: now + Math.min(ms, TYPING_MOST_MS) });
    return true;
  }
}

/** What is left of a message. */
function tombstone({ number, author, name, created_at, reply_to }, { at, reason }) {
  return { number, author, name, created_at, reply_to, reactions: {}, deleted: true, deleted_at: at, reason };
}

/** A message with a reaction more or less. */
function reacted(message, { user, emoji, on }) {
  if (message.deleted) return message;
  const users = (message.reactions[emoji] ?? []).filter((one) => one !== user);
  if (on) users.push(user);
  const reactions = { ...message.reactions, [emoji]: users.sort() };
  if (users.length === 0) delete reactions[emoji];
  return { ...message, reactions };
}

/**
 * Who is present on a topic. While `doubtful`, something is missing: members and counts are those of before. What comes
 * meanwhile is kept and follows the snapshot.
 */
export class PresenceView {
  /** @type {Map<string, {user: string, name: string, status: "online" | "away"}>} Empty while not `listed`. */
  members = new Map();
  online = 0;
  away = 0;
  /** False: too many to name them. */
  listed = true;
  epoch = "";
  version = 0;
  /** @type {Map<number, any>} By version, all of one epoch. */
  #waiting = new Map();
  #waitingEpoch = "";

  /** Whether a snapshot is awaited. */
  get doubtful() {
    return this.epoch === "" || this.#waiting.size > 0;
  }

  /** Takes the data of a `presence` event. @returns {boolean} whether something that can be seen has changed */
  apply(event) {
    if (event.action === "snapshot") return this.#snapshot(event, false);
    if (event.epoch === this.epoch && event.version <= this.version) return false;
    if (event.action === "count") {
      this.#become(event, false, []);
      this.#settle(event.version);
      return true;
    }
    if (!["join", "update", "leave"].includes(event.action)) return false;
    if (event.epoch !== this.#waitingEpoch) this.#waiting.clear();
    this.#waitingEpoch = event.epoch;
    this.#waiting.set(event.version, event);
    if (this.#waiting.size > MOST_WAITING) this.#waiting.delete(Math.min(...this.#waiting.keys()));
    return this.#catchUp();
  }

  /** Takes what `presence.get` answered, which may have overtaken events: only in doubt. */
  answer(result) {
    return this.doubtful && this.#snapshot(result, true);
  }

  #snapshot(event, asked) {
    // Of a node that is behind: its events lead to where we are.
    if (event.epoch === this.epoch && event.version < this.version) return false;
    this.#become(event, event.listed, event.members);
    if (this.#waitingEpoch === event.epoch) this.#settle(event.version);
    else if (!asked) this.#waiting.clear(); // an epoch that has ended
    return true;
  }

  #become(event, listed, members) {
    this.epoch = event.epoch;
    this.version = event.version;
    this.online = event.online;
    this.away = event.away;
    this.listed = listed;
    this.members = new Map(listed ? members.map((member) => [member.user, member]) : []);
  }

  /** What waited up to `version` is dealt with. */
  #settle(version) {
    if (this.#waitingEpoch !== this.epoch) this.#waiting.clear();
    for (const waiting of this.#waiting.keys()) if (waiting <= version) this.#waiting.delete(waiting);
    this.#catchUp();
  }

  #catchUp() {
    let changed = false;
    while (this.listed && this.#waitingEpoch === this.epoch && this.#waiting.has(this.version + 1)) {
      const { action, user, name, status, version, online, away } = this.#waiting.get(this.version + 1);
      this.#waiting.delete(version);
      if (action === "leave") this.members.delete(user);
      else this.members.set(user, { user, name, status });
      Object.assign(this, { version, online, away });
      changed = true;
    }
    return changed;
  }
}

/**
 * One room over a `HubClient`: what is missed is fetched, what passes is tried again, and a message is sent once.
 *
 *     const room = new ChatRoom(hub, "lobby", { onChange: (name) => show(room.view, room.presence) });
 *     await room.open();
 *     await room.send("hello");
 */
export class ChatRoom {
  /** @type {RoomView} */
  view = new RoomView("");
  presence = new PresenceView();

  #hub;
  #name;
  #handlers;
  #stop = () => {};
  #closed = false;
  /** Events while a page is awaited; null: none is. @type {any[] | null} */
  #held = null;
  #typingUntil = 0;
  #told = 0;
  #reading = false;
  #expiry = 0;
  #doubt = 0;

  /**
   * @param {import("./hub.js").HubClient} hub
   * @param {string} name the room's id
   * @param {{onChange?: (name: string) => void, onEnd?: (error: HubError) => void, onPause?: (error: HubError) => void,
   *   onResume?: () => void}} handlers `onChange`: an event was applied, or with `reloaded` the view began anew; `onEnd`:
   *   the room is not to be seen any more; `onPause`, `onResume`: a flag has switched it off, or on again
   */
  constructor(hub, name, handlers = {}) {
    this.#hub = hub;
    this.#name = name;
    this.#handlers = handlers;
  }

  /** The room, joined and shown from its newest page on. Rejects with `HubError`: `not_found`. */
  async open() {
    await this.#ask("chat.join");
    const { page, room } = await this.#fetch();
    if (this.#closed) return;
    this.view = new RoomView(this.#hub.user);
    this.view.start(page, room);
    const handlers = {
      onEvent: (event) => this.#take(event),
      onGap: () => this.#reload(),
      onEnd: (error) => this.#end(error),
      onPause: (error) => this.#handlers.onPause?.(error),
      onResume: () => this.#handlers.onResume?.(),
    };
    this.#stop = this.#hub.subscribe(`chat:${this.#name}`, handlers, { since: page.position });
    this.#look();
    this.#handlers.onChange?.("reloaded");
  }

  close() {
    this.#closed = true;
    this.#stop();
    clearTimeout(this.#expiry);
    clearTimeout(this.#doubt);
  }

  /** Says something, once, whatever becomes of the connection meanwhile. */
  send(text, { format = "text", replyTo = null, mentions = [], attachments = [] } = {}) {
    this.#typingUntil = 0;
    return this.#ask("chat.send", { text, format, mentions, attachments, key: freshKey(), ...(replyTo && { reply_to: replyTo }) });
  }

  edit(number, text, format = undefined) {
    return this.#ask("chat.edit", { message: number, text, ...(format && { format }) });
  }

  delete(number) {
    return this.#ask("chat.delete", { message: number });
  }

  react(number, emoji, on = true) {
    return this.#ask("chat.react", { message: number, emoji, on });
  }

  /** Loads the page before; false: there is none, or no room for it. */
  async older() {
    while (this.view.moreBefore && !this.view.full) {
      const { view } = this;
      const before = view.oldest;
      const page = await this.#ask("chat.history", { limit: PAGE, before });
      if (this.#closed) return false;
      if (this.view !== view || !view.load(page, before)) continue;
      this.#handlers.onChange?.("older");
      return true;
    }
    return false;
  }

  /** What is here has been read. May be called at every event: it asks once at a time, and only for what is new. */
  async read() {
    if (this.#reading || !this.view.room?.role) return;
    this.#reading = true;
    try {
      while (!this.#closed && this.view.newest > this.#told && this.view.unread > 0) {
        const message = this.view.newest;
        const { read } = await this.#ask("chat.read", { message });
        this.#told = message;
        this.view.ownRead(read);
        this.#handlers.onChange?.("read");
      }
    } finally {
      this.#reading = false;
    }
  }

  /** One types, or no more. May be called at every key; what does not get through is not worth another try. */
  typing(on = true) {
    const now = Date.now();
    if (on ? now < this.#typingUntil : this.#typingUntil === 0) return;
    this.#typingUntil = on ? now + TYPING_EVERY_MS : 0;
    this.#hub.call("chat.typing", { room: this.#name, on }).catch(() => {});
  }

  /** The names of those who type. */
  get typists() {
    return this.view.typing(Date.now());
  }

  // --- inside

  #take(event) {
    if (event.name === "presence") {
      if (this.presence.apply(event.data)) this.#handlers.onChange?.("presence");
      this.#look();
    } else if (this.#held !== null && event.data?.number) {
      if (this.#held.push(event) > MOST_HELD) this.#reload();
    } else if (this.view.apply(event, Date.now())) {
      if (event.name === "typing") this.#expire();
      this.#handlers.onChange?.(event.name);
    }
  }

  /** Events are lost: begins anew with the newest page. What comes meanwhile follows it. */
  async #reload() {
    const held = (this.#held = []); // of an earlier one that is under way nothing is of use
    try {
      const { page, room } = await this.#fetch();
      if (held !== this.#held || this.#closed) return;
      this.#held = null;
      this.view.start(page, room);
      for (const event of held) this.view.apply(event, Date.now());
      this.#handlers.onChange?.("reloaded");
    } catch (error) {
      if (held === this.#held) this.#end(error);
    }
  }

  /** The room is asked for after the page: what has happened in between comes as events. */
  async #fetch() {
    const page = await this.#ask("chat.history", { limit: PAGE });
    const { room } = await this.#ask("chat.get");
    return { page, room };
  }

  #end(error) {
    if (this.#closed) return;
    this.close();
    this.#handlers.onEnd?.(error);
  }

  /** Tells when somebody's typing has ended by itself. */
  #expire() {
    clearTimeout(this.#expiry);
    const before = this.typists.length;
    if (before === 0) return;
    this.#expiry = setTimeout(() => {
      if (this.typists.length !== before) this.#handlers.onChange?.("typing");
      this.#expire();
    }, 250);
  }

  /** Asks who is here when the snapshot that should tell does not come. */
  #look() {
    if (!this.presence.doubtful || this.#closed) {
      clearTimeout(this.#doubt);
      this.#doubt = 0;
      return;
    }
    this.#doubt ||= setTimeout(async () => {
      const topic = `chat:${this.#name}`;
      const result = await this.#hub.call("presence.get", { topic }).catch(() => null);
      if (result && this.presence.answer(result)) this.#handlers.onChange?.("presence");
      this.#doubt = 0;
      this.#look();
    }, SNAPSHOT_PATIENCE_MS);
  }

  /** Asks until there is an answer. Everything that is asked like this may be repeated. */
  async #ask(method, params = {}) {
    for (;;) {
      try {
        return await this.#hub.call(method, { room: this.#name, ...params });
      } catch (error) {
        if (!(error instanceof HubError) || error.retry === "never" || NOT_SOON.has(error.code) || this.#closed) throw error;
        await new Promise((resume) => setTimeout(resume, error.retryAfterMs || ASK_AGAIN_MS));
      }
    }
  }
}

function freshKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
