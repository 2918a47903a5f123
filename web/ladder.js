/** Which transport a client of hub.js takes: the best that gets through, and when to try a better one. No dependency. */

const REMEMBERED = "hub.transport ";
/** A transport that has worked before may fail so often in a row, any other once. */
const MOST_MISSES = 3;
const LEAST_HUB_CODE = 4000;
/** Close codes that say something about the data, and nothing about the way that it came. */
const FAULTS = new Set([1000, 1002, 1007]);

/** Transports by number, from 0: the lower the better. */
export class Ladder {
  /** The one in use, or tried. */
  rung = 0;
  /** Where the hub has said to go on. @type {number | null} */
  told = null;
  #transports;
  #options;
  #key;
  #misses = 0;
  #worked = new Set();
  #upgradeAt = 0;
  #upgrades = 0;

  /**
   * @param {{transports: string[], upgradeMs: number, mostUpgradeMs: number}} options
   * @param {string} host of what is remembered for the next page
   */
  constructor(options, host) {
    const known = ["websocket", "sse", "poll"];
    const strange = options.transports.find((name) => !known.includes(name));
    if (strange !== undefined || options.transports.length === 0) throw new Error(`'transports' must be some of ${known.join(", ")}`);
    this.#transports = options.transports;
    this.#options = options;
    this.#key = REMEMBERED + host;
    this.rung = Math.max(0, this.#transports.indexOf(this.#remembered()));
    this.planUpgrade();
  }

  get transport() {
    return this.#transports[this.rung];
  }

  at(rung) {
    return this.#transports[rung];
  }

  /** Whether this one has never worked, and there are others. */
  get doubtful() {
    return this.#transports.length > 1 && !this.#worked.has(this.transport);
  }

  /** Whether it is time to try a better one. */
  get due() {
    return this.rung > 0 && Date.now() > this.#upgradeAt;
  }

  /** The best transport below the present one that the hub names. @param {string[]} fallback @returns {number | null} */
  lower(fallback) {
    const rung = this.#transports.findIndex((name, at) => at > this.rung && fallback.includes(name));
    return rung < 0 ? null : rung;
  }

  /** This one works. */
  arrived() {
    this.#misses = 0;
    this.#worked.add(this.transport);
    try {
      sessionStorage.setItem(this.#key, this.transport);
    } catch {
      // There is none, or it may not be used: then the next page finds out for itself.
    }
  }

  /** A better one has taken over. */
  climbed(rung) {
    this.#go(rung);
    this.#upgrades = 0;
  }

  /**
   * A connection has ended, or did not come about.
   *
   * @param {number} code @param {boolean} silent it never worked, or what the hub says does not get through any more
   */
  ended(code, silent) {
    if (this.told !== null) this.#go(this.told);
    else if (silent && code < LEAST_HUB_CODE && !FAULTS.has(code)) {
      this.#misses += 1;
      if (this.#misses >= (this.#worked.has(this.transport) ? MOST_MISSES : 1)) this.#go((this.rung + 1) % this.#transports.length);
    }
  }

  /** When a better one is tried next: later and later. */
  planUpgrade() {
    const mostMs = Math.min(this.#options.mostUpgradeMs, this.#options.upgradeMs * 2 ** this.#upgrades++);
    this.#upgradeAt = Date.now() + mostMs * (0.5 + Math.random() / 2);
  }

  /** What kept it down may be over. */
  hope() {
    this.#upgrades = 0;
  }

  #go(rung) {
    if (rung > this.rung) this.planUpgrade();
    this.rung = rung;
    this.told = null;
    this.#misses = 0;
  }

  #remembered() {
    try {
      return sessionStorage.getItem(this.#key) ?? "";
    } catch {
      return "";
    }
  }
}
