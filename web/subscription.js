/** One topic as a client of hub.js has it: what came, where to go on, and what is a repeat. No dependency. */

/**
 * Frames of a topic count only while it is `live`: what comes before its verdict belongs to an earlier subscription of
 * the same topic.
 */
export class Subscription {
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
  /** Has been live: what it waits for then may come back. */
  entered = false;
  /** Switched off by a flag; it goes on when that is on again. */
  paused = false;
  /** Why it is not to be had over this transport, but over another one. @type {import("./requests.js").HubError | null} */
  stranded = null;

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

  /**
   * Whether it has gone so far since it was asked for that the verdict says nothing about it: numbers of two epochs can not
   * be compared, and one who asked without a position can not tell where the verdict begins.
   *
   * @param {{epoch: string, seq: number} | null} asked
   */
  hasLeft(asked) {
    return this.position !== null && asked?.epoch !== this.position.epoch;
  }

  /** It is asked for. */
  joining() {
    this.state = "joining";
    this.stranded = null;
  }

  joined({ epoch, seq }) {
    const liveOnly = this.first.since === "now" || this.first.last === 0;
    if (this.position === null && epoch && (liveOnly || seq === 0)) this.position = { epoch, seq };
    this.state = "live";
    this.refusals = 0;
    this.entered = true;
    this.epoch = epoch;
    this.seen = this.position?.epoch === epoch ? this.position.seq : 0;
    if (this.paused) this.handlers.onResume?.();
    this.paused = false;
  }

  /** What it is about is switched off; more than once is once. */
  pause(error) {
    if (!this.paused) queueMicrotask(() => this.handlers.onPause?.(error)); // what it throws is not to stop what goes on
    this.paused = true;
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
