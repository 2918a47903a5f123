/** A connection that hub.js tries beside the present one: with its welcome it takes over, or nothing has happened. No dependency. */

export class Trial {
  line = null;
  /** What its hello has asked for, and from where on. @type {Map<import("./subscription.js").Subscription, any>} */
  greeted = new Map();
  /** There is no verdict yet. */
  open = true;
  #alarm;
  #onEnd;

  /**
   * @param {number} rung of the transport
   * @param {number} patienceMs
   * @param {(welcome: any) => void} onEnd called once, but not after `abandon`. null: it has come to nothing
   */
  constructor(rung, patienceMs, onEnd) {
    this.rung = rung;
    this.#onEnd = onEnd;
    this.#alarm = setTimeout(() => this.end(), patienceMs);
  }

  /** @param {(trial: Trial) => Promise<any>} makeLine */
  async begin(makeLine) {
    try {
      this.line = await makeLine(this);
      if (!this.open) this.line.close();
    } catch {
      this.end();
    }
  }

  hear(frame) {
    if (frame.type === "welcome") this.end(frame);
  }

  end(welcome = null) {
    if (!this.open) return;
    this.#conclude();
    this.#onEnd(welcome);
  }

  /** It is of no use any more. */
  abandon() {
    this.#conclude();
    this.line?.close();
  }

  #conclude() {
    this.open = false;
    clearTimeout(this.#alarm);
  }
}
