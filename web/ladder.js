/** Which transport a client of hub.js takes: the best that gets through, and when to try a better one. No dependency. */

const REMEMBERED = "hub.transport ";
/** A transport that has worked before may fail so often in a row, any other once. */
const MOST_MISSES = 3;
/** So many connections in a row may be cut that lived for a short while only. */
const MOST_CUTS = 3;
const LEAST_HUB_CODE = 4000;
/** Nodes hear of a change within a second. So long another one may not know yet what this client was told. */
const SPREAD_MS = 5000;
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
  /** Connections that were cut soon, in a row, by transport. @type {Map<string, number>} */
  #cuts = new Map();
  #upgradeAt = 0;
  #upgrades = 0;
  #hopedAt = -Infinity;

  /**
   * @param {{transports: string[], upgradeMs: number, mostUpgradeMs: number, moveMs: number, welcomeMs: number, doubtMs: number,
   *   shortLifeMs: number}} options
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

  /** How long the first word of this one is waited for: less while it has never worked, and there are others. */
  patienceMs(rung = this.rung) {
    const { welcomeMs, doubtMs } = this.#options;
    const doubtful = this.#transports.length > 1 && !this.#worked.has(this.at(rung));
    return doubtful ? Math.min(doubtMs, welcomeMs) : welcomeMs;
  }

  /** Whether it is time to try a better one. */
  get due() {
    return this.rung > 0 && Date.now() > this.#upgradeAt;
  }

  /** Transports below the present one that the hub names, the best first. @param {string[]} fallback */
  below(fallback) {
    return [...this.#transports.keys()].filter((at) => at > this.rung && fallback.includes(this.at(at)));
  }

  /** Transports above the present one, the best first. */
  above() {
    return [...this.#transports.keys()].slice(0, this.rung);
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

  /** Another one has taken over. */
  moved(rung) {
    this.#go(rung, { asked: true });
  }

  /**
   * A connection has ended, or did not come about.
   *
   * @param {number} code
   * @param {{silent: boolean, cut: boolean, livedMs: number}} how `silent`: it never worked, or what the hub says does not get
   *   through any more; `cut`: it worked, and ended without a word
   */
  ended(code, { silent, cut, livedMs }) {
    const lasted = livedMs >= this.#options.shortLifeMs;
    if (lasted) this.#cuts.delete(this.transport);
    if (lasted && this.rung === 0) this.#upgrades = 0;
    if (this.told !== null) this.#go(this.told, { asked: true });
    else if (silent && code < LEAST_HUB_CODE && !FAULTS.has(code)) {
      this.#misses += 1;
      if (this.#misses >= (this.#worked.has(this.transport) ? MOST_MISSES : 1)) this.#go((this.rung + 1) % this.#transports.length);
    } else if (cut && !lasted) this.#cut();
  }

  /** When a better one is tried next: later and later, unless it was `asked` to come down. */
  planUpgrade({ asked = false } = {}) {
    const { moveMs, mostUpgradeMs, upgradeMs } = this.#options;
    const early = !asked && Date.now() - this.#hopedAt < SPREAD_MS;
    const mostMs = early ? 2 * moveMs : Math.min(mostUpgradeMs, upgradeMs * 2 ** this.#upgrades);
    if (!asked && !early) this.#upgrades += 1;
    this.#upgradeAt = Date.now() + mostMs * (0.5 + Math.random() / 2);
  }

  /** What kept it down may be over. */
  hope() {
    this.#upgrades = 0;
    this.#hopedAt = Date.now();
    this.#upgradeAt = this.#hopedAt + this.#options.moveMs;
  }

  /** Something on the way lets connections of this transport begin, and ends them. */
  #cut() {
    const cuts = (this.#cuts.get(this.transport) ?? 0) + 1;
    this.#cuts.set(this.transport, Math.min(cuts, MOST_CUTS - 1)); // whoever comes back up is not to suffer as often again
    if (cuts >= MOST_CUTS && this.rung + 1 < this.#transports.length) this.#go(this.rung + 1);
  }

  #go(rung, how = {}) {
    if (rung > this.rung) this.planUpgrade(how);
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
