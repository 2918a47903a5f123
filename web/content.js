/**
 * Puts the chunks of a content stream together, in a browser or anywhere else. No dependency.
 * docs/content.md says how an editor uses it, docs/protocol.md what chunks are.
 */

/**
 * The data of a `chunk` event.
 *
 * @typedef {object} Chunk
 * @property {string} [run] of which part; what began later has the higher one
 * @property {number} index 0, 1, 2 … in the stream
 * @property {"open" | "append" | "replace_tail" | "close"} op
 * @property {number} block which top-level block, from 0
 * @property {string} html balanced and safe
 * @property {string} text the same as plain text
 * @property {number} [progress] part of the document that has come, up to 1
 * @property {number} [depth] for `append`: insert before that many end tags at the end of the block
 */

/**
 * What a reader of a content stream has: `begin` takes the data of each `stream_start`, `apply` that of each `chunk`, in
 * the order of the events.
 *
 * After every chunk `html` is well-formed and safe to show; after the last it is the whole document.
 */
export class ContentAssembler {
  #run = "";
  #next = 0;
  /** What was before it is not kept any more. */
  #firstBlock = 0;
  /** @type {string[]} */
  #closed = [];
  /** @type {string[]} */
  #texts = [];
  /** Of the last block, without the end tags it ends with. */
  #body = "";
  /** @type {string[]} Those, the outermost first. */
  #ends = [];
  #open = false;
  /** @type {Element | null} Where the document is shown. */
  #shownIn = null;
  /** @type {Element | null} The last block there. */
  #shown = null;

  /** The top-level blocks, each one element. @returns {string[]} */
  get blocks() {
    return this.#open ? [...this.#closed, this.#tail()] : [...this.#closed];
  }

  /** The document so far. @returns {string} */
  get html() {
    return this.blocks.join("");
  }

  /** The same as plain text, a line or more per block. @returns {string} */
  get text() {
    return this.#texts.join("");
  }

  /** Whether the last block may still change. @returns {boolean} */
  get open() {
    return this.#open;
  }

  /**
   * Shows the document in `element`, in place of what is in it, and from now on every chunk that is applied. A chunk
   * touches the last block only; leave that one alone until it is closed.
   *
   * @param {Element} element one that may hold blocks: a `div`, not a `p`
   * @returns {this}
   */
  mount(element) {
    element.innerHTML = this.html;
    this.#shownIn = element;
    this.#shown = this.#open ? element.lastElementChild : null;
    return this;
  }

  /**
   * A part begins, with chunk `index` and block `block`: what was there from that block on is gone, which is nothing
   * unless the stream was lost and another one of its name begins. When it is the first that comes, what was before it
   * is not kept any more, and this begins there.
   *
   * @param {{ run: string, index: number, block: number }} start
   * @returns {boolean} true: something went
   * @throws {RangeError} when chunks are missing: make a new assembler and subscribe again from the start
   */
  begin({ run, index, block }) {
    if (run <= this.#run) return false; // it was there before
    if (this.#next > 0 && index > this.#next) throw new RangeError(`a part began with chunk ${index} where ${this.#next} was expected`);
    this.#run = run;
    this.#next = index;
    this.#firstBlock = this.#texts.length > 0 ? Math.min(this.#firstBlock, block) : block;
    const left = block - this.#firstBlock;
    const went = this.#texts.length > left;
    if (went) {
      this.#closed.length = left;
      this.#texts.length = left;
      this.#open = false;
      if (this.#shownIn !== null) this.mount(this.#shownIn);
    }
    return went;
  }

  /**
   * Takes the next chunk's data.
   *
   * @param {Chunk} chunk
   * @returns {boolean} false: it was there before, after a reconnect
   * @throws {RangeError} when chunks are missing: make a new assembler and subscribe again from the start
   */
  apply(chunk) {
    if (chunk.index < this.#next || (chunk.run ?? this.#run) < this.#run) return false;
    if (chunk.index > this.#next) {
      throw new RangeError(`chunk ${chunk.index} came where ${this.#next} was expected`);
    }
    this.#next += 1;
    const last = this.#texts.length - 1;
    if (chunk.op === "append") {
      this.#append(chunk.html, chunk.depth ?? 0);
      this.#texts[last] += chunk.text;
    } else if (chunk.op === "close") {
      this.#closed.push(this.#tail());
      this.#texts[last] += chunk.text;
      this.#open = false;
    } else {
      if (chunk.op === "open") this.#texts.push(chunk.text);
      else this.#texts[last] = chunk.text;
      this.#open = true;
      this.#body = "";
      this.#ends = [];
      this.#append(chunk.html, 0);
    }
    if (this.#shownIn !== null) this.#show(this.#shownIn, chunk);
    return true;
  }

  /**
   * Inserts before the last `depth` end tags.
   *
   * @param {string} html
   * @param {number} depth
   */
  #append(html, depth) {
    while (this.#ends.length > depth) this.#body += this.#ends.pop();
    const ends = [];
    for (;;) {
      const begin = html.lastIndexOf("<");
      if (begin < 0 || !html.startsWith("</", begin) || !html.endsWith(">")) break;
      ends.push(html.slice(begin));
      html = html.slice(0, begin);
    }
    this.#body += html;
    this.#ends.push(...ends);
  }

  #tail() {
    return this.#body + [...this.#ends].reverse().join("");
  }

  /**
   * Does to the element what the chunk did to the document.
   *
   * @param {Element} element
   * @param {Chunk} chunk
   */
  #show(element, chunk) {
    if (chunk.op === "append") {
      let inside = this.#shown;
      for (let depth = chunk.depth ?? 1; inside && depth > 1; depth -= 1) inside = inside.lastElementChild;
      inside?.insertAdjacentHTML("beforeend", chunk.html);
    } else if (chunk.op === "close") {
      this.#shown?.normalize(); // the text that came in pieces is one again
      this.#shown = null;
    } else {
      if (chunk.op === "replace_tail") this.#shown?.remove();
      element.insertAdjacentHTML("beforeend", chunk.html);
      this.#shown = chunk.html === "" ? null : element.lastElementChild;
    }
  }
}
