// In the page of the browser tests: shows documents in frames of their own and pokes at them.
// What then happens in a frame is seen by the DevTools protocol (detector.py); here only the DOM is looked at.

import { ContentAssembler } from "./content.js";

const QUIET_MS = 150; // what a payload starts by itself, it starts within this time; nothing can be waited for
const LINKS = ["http:", "https:", "mailto:", "tel:"];
const NOWHERE = ":"; // what is no address at all leads there
const MOUSE = ["pointerover", "mouseover", "mouseenter", "mousemove", "mousedown", "mouseup", "click"];
const EVENTS = ["begin", "end", "repeat", "focusin", "focusout", "start", "finish", "bounce", "search"];
for (const name in HTMLElement.prototype) if (name.startsWith("on")) EVENTS.push(name.slice(2));

/**
 * An act has `documents`, each put into a div of its own by innerHTML, `streams`, each applied to a div chunk by chunk
 * (after each of them it must be `documents[shows[i]]`), and perhaps a `page`, which the frame's document is written as.
 * `allowed` has `tags` and `attributes`; null: the DOM is not judged.
 * Returns for each act what is wrong with its DOM, how many documents were rendered, and the images in them.
 */
export async function show(acts, allowed) {
  const stages = acts.map((act) => new Stage(act));
  const steps = Math.max(...stages.map((stage) => stage.steps));
  for (let step = 0; step < steps; step += 1) {
    for (const stage of stages) stage.step(step);
    await task();
  }
  await quiet(stages);
  if (allowed) for (const stage of stages) stage.judge(allowed);
  for (const stage of stages) stage.poke();
  await quiet(stages);
  const results = stages.map(({ wrong, rendered, images }) => ({ wrong: wrong.slice(0, 10), rendered, images }));
  for (const stage of stages) stage.frame.remove();
  return results;
}

class Stage {
  constructor(act) {
    this.wrong = [];
    this.rendered = 0;
    this.frame = document.createElement("iframe");
    document.body.append(this.frame);
    this.document = this.frame.contentDocument;
    this.document.open();
    // Addresses that may be followed need not be followed here; all others do what they do.
    this.frame.contentWindow.addEventListener("click", (event) => {
      const link = event.target.closest?.("a[href]");
      if (link && [...LINKS, NOWHERE].includes(link.protocol)) event.preventDefault();
    });
    this.document.write("<!doctype html><body>" + (act.page ?? ""));
    this.document.close();
    this.written = act.page === undefined ? [] : [...this.document.querySelectorAll("body, body *")];
    this.rendered += act.page === undefined ? 0 : 1;
    this.documents = act.documents ?? [];
    for (const html of this.documents) this.showDocument(html);
    this.streams = (act.streams ?? []).map(({ chunks, shows }) => {
      const div = this.place();
      return { chunks, shows, div, assembler: new ContentAssembler().mount(div) };
    });
    this.steps = Math.max(0, ...this.streams.map(({ chunks }) => chunks.length));
  }

  get images() {
    return [...(this.frame.contentDocument?.images ?? [])].map((image) => image.src.split("#")[0]);
  }

  place() {
    const div = this.document.createElement("div");
    this.document.body.append(div);
    return div;
  }

  showDocument(html) {
    const div = this.place();
    div.innerHTML = html;
    this.rendered += 1;
    div.inserted = html;
  }

  step(number) {
    for (const { chunks, shows, div, assembler } of this.streams) {
      if (number >= chunks.length) continue;
      assembler.apply(chunks[number]);
      this.rendered += 1;
      const expected = this.documents[shows[number]];
      if (assembler.html !== expected) this.wrong.push(`assembled ${assembler.html} and not ${expected}`);
      if (div.innerHTML !== expected) this.wrong.push(`shows ${div.innerHTML} and not ${expected}`);
    }
  }

  /** Looks at every node, in its own right: no string is searched. */
  judge({ tags, attributes }) {
    const { body } = this.document;
    for (const div of body.children) {
      if (div.inserted !== undefined && div.innerHTML !== div.inserted) {
        this.wrong.push(`became ${div.innerHTML} and was ${div.inserted}`);
      }
    }
    const nodes = this.document.createTreeWalker(body);
    while (nodes.nextNode()) {
      const node = nodes.currentNode;
      if (node.nodeType === Node.TEXT_NODE) continue;
      if (node.nodeType !== Node.ELEMENT_NODE) this.wrong.push(`a node of type ${node.nodeType}`);
      else this.judgeElement(node, tags, attributes);
    }
  }

  judgeElement(element, tags, attributes) {
    if (element.namespaceURI !== "http://www.w3.org/1999/xhtml") this.wrong.push(`namespace ${element.namespaceURI}`);
    if (!tags.includes(element.localName)) this.wrong.push(`element ${element.localName}`);
    for (const { name, value } of element.attributes) {
      if (!attributes.includes(name)) this.wrong.push(`attribute ${name}`);
      if (name === "href" && ![...LINKS, NOWHERE].includes(element.protocol)) this.wrong.push(`link ${value}`);
      if (name === "src" && !element.src.startsWith("https://")) this.wrong.push(`image ${value}`);
    }
    for (const property of element.style) {
      const value = element.style.getPropertyValue(property);
      if (/url|image|expression|var|attr|@/i.test(value)) this.wrong.push(`style ${property}: ${value}`);
    }
  }

  /** Does what a reader may do with everything; in the page also what nobody does: every event there is. */
  poke() {
    for (const element of this.document.querySelectorAll("body, body *")) {
      for (const name of MOUSE) element.dispatchEvent(new MouseEvent(name, { bubbles: true, cancelable: true }));
      if (element.tabIndex >= 0) element.focus();
    }
    for (const element of this.written) {
      for (const name of EVENTS) element.dispatchEvent(new Event(name, { cancelable: true }));
    }
  }
}

function task() {
  return new Promise((resolve) => setTimeout(resolve));
}

function frame() {
  return new Promise((resolve) => requestAnimationFrame(resolve));
}

async function quiet(stages) {
  await new Promise((resolve) => setTimeout(resolve, QUIET_MS));
  const deadline = performance.now() + 5000;
  const busy = () => stages.some((stage) => [...(stage.frame.contentDocument?.images ?? [])].some((i) => !i.complete));
  while (busy() && performance.now() < deadline) await frame();
  await frame();
  await frame();
}
