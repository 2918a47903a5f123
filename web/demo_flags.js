/** The flags of the page that `hub dev` serves: what is on for its visitor, and a way to flip them for who may do so. */

const WHY = "flipped on the page of hub dev";

const find = (id) => document.getElementById(id);

/**
 * Shows the flags and keeps them up to date.
 *
 * @param {import("./hub.js").HubClient} hub
 * @param {(text: string) => void} tell what has happened
 */
export function showFlags(hub, tell) {
  /** @type {Map<string, HTMLElement>} */
  const rows = new Map();
  let welcomed = false;
  /** Has the scope `flags:write`. */
  let operates = false;

  hub.onFlags = (flags, changed) => {
    show();
    if (welcomed) for (const name of changed) tell(`${name} is ${isOn(name) ? "on" : "off"}`);
    welcomed = true;
  };
  describe();

  // What is in no file (any more) is on.
  function isOn(name) {
    return hub.flags[name] ?? true;
  }

  function show() {
    for (const name of Object.keys(hub.flags).sort()) rowOf(name);
    for (const [name, shown] of rows) {
      shown.querySelector("input").checked = isOn(name);
      shown.querySelector("input").disabled = !operates;
      shown.classList.toggle("off", !isOn(name));
    }
  }

  function rowOf(name) {
    if (rows.has(name)) return rows.get(name);
    const item = find("flags").appendChild(document.createElement("li"));
    rows.set(name, item);
    const label = item.appendChild(document.createElement("label"));
    const box = label.appendChild(document.createElement("input"));
    box.type = "checkbox";
    box.setAttribute("role", "switch");
    box.dataset.flag = name;
    // It shows what is on for the visitor: the hub tells when that has changed.
    box.onchange = () => {
      const wanted = box.checked;
      box.checked = isOn(name);
      change(name, { state: wanted ? "on" : "off" });
    };
    label.append(` ${name}`);
    const clear = item.appendChild(document.createElement("button"));
    clear.textContent = "as the file says";
    clear.hidden = true;
    clear.onclick = () => change(name, { clear: true });
    return item;
  }

  async function change(name, what) {
    say("");
    try {
      const body = JSON.stringify({ ...what, why: WHY });
      const { changes } = await ask(`/v1/flags/${encodeURIComponent(name)}`, { method: "PATCH", body });
      for (const { flag, override } of changes) rowOf(flag).querySelector("button").hidden = override === null;
    } catch (error) {
      say(`${name}: ${error.message}`);
    }
  }

  /** What they are about, and which of them were changed before; not for everybody. */
  async function describe() {
    try {
      const { flags } = await ask("/v1/flags");
      operates = true;
      for (const { flag, override, description, variants } of flags) {
        if (!Object.values(variants).every((value) => typeof value === "boolean")) continue;
        rowOf(flag).title = description;
        rowOf(flag).querySelector("button").hidden = !override;
      }
      show();
    } catch (error) {
      say(error.code === "forbidden" ? "To flip them takes the scope flags:write, which the token of another demo user has." : error.message);
    }
  }

  async function ask(path, init = {}) {
    const answer = await hub.fetch(path, { ...init, headers: { "Content-Type": "application/json" } });
    const body = await answer.json();
    if (!answer.ok) throw Object.assign(new Error(`${body.code}: ${body.detail}`), { code: body.code });
    return body;
  }
}

function say(text) {
  find("flags-said").textContent = text;
}
