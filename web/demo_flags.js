/** The flags of the page that `hub dev` serves: what is on for its visitor, and for an operator a way to flip them. */

const WHY = "flipped on the page of hub dev";

const find = (id) => document.getElementById(id);

/**
 * Shows the flags and keeps them up to date.
 *
 * @param {import("./hub.js").HubClient} hub
 * @param {string} operator a token with the scope `flags:write`, or ""
 * @param {(text: string) => void} tell what has happened
 */
export function showFlags(hub, operator, tell) {
  /** @type {Map<string, HTMLElement>} */
  const rows = new Map();
  let welcomed = false;

  hub.onFlags = (flags, changed) => {
    for (const name of Object.keys(flags).sort()) {
      if (!rows.has(name)) rows.set(name, find("flags").appendChild(row(name)));
    }
    for (const [name, shown] of rows) {
      const on = flags[name] ?? true; // what is in no file (any more) is on
      shown.querySelector("input").checked = on;
      shown.classList.toggle("off", !on);
    }
    if (welcomed) for (const name of changed) tell(`${name} is ${flags[name] ?? true ? "on" : "off"}`);
    welcomed ||= changed.length > 0;
  };
  if (operator) describe();
  else find("flags-said").textContent = "Only an operator may flip them: hub dev prints an address for one.";

  function row(name) {
    const item = document.createElement("li");
    const label = item.appendChild(document.createElement("label"));
    const box = label.appendChild(document.createElement("input"));
    box.type = "checkbox";
    box.setAttribute("role", "switch");
    box.dataset.flag = name;
    box.disabled = !operator;
    // It shows what is on for the visitor: the hub tells when that has changed.
    box.onchange = () => {
      const wanted = box.checked;
      box.checked = hub.flags[name] ?? true;
      change(name, { state: wanted ? "on" : "off" });
    };
    label.append(` ${name}`);
    if (operator) {
      const clear = item.appendChild(document.createElement("button"));
      clear.textContent = "as the file says";
      clear.hidden = true;
      clear.onclick = () => change(name, { clear: true });
    }
    return item;
  }

  async function change(name, what) {
    say("");
    try {
      await ask(`/v1/flags/${encodeURIComponent(name)}`, { method: "PATCH", body: JSON.stringify({ ...what, why: WHY }) });
      rows.get(name).querySelector("button").hidden = "clear" in what;
    } catch (error) {
      say(`${name}: ${error.message}`);
    }
  }

  /** Which of them were changed already, and what they are about. */
  async function describe() {
    try {
      const { flags } = await ask("/v1/flags", {});
      for (const { flag, override, description, variants } of flags) {
        if (!Object.values(variants).every((value) => typeof value === "boolean")) continue;
        if (!rows.has(flag)) rows.set(flag, find("flags").appendChild(row(flag)));
        rows.get(flag).title = description ?? "";
        rows.get(flag).querySelector("button").hidden = !override;
      }
      hub.onFlags(hub.flags, []);
    } catch (error) {
      say(error.message);
    }
  }

  async function ask(path, init) {
    const headers = { Authorization: `Bearer ${operator}`, "Content-Type": "application/json" };
    const answer = await fetch(path, { ...init, headers });
    const body = await answer.json();
    if (!answer.ok) throw new Error(`${body.code}: ${body.detail}`);
    return body;
  }
}

function say(text) {
  find("flags-said").textContent = text;
}
