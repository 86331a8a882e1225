// Tiles to click: words with a portrait each, or pictures. See tiles.py for `data`.
// Streamlit calls the function anew at each run of the page; what must outlive that lies on `root.memory`.

const NEXT = { "0": 1, "1": -1, "-1": 0 };
const SAID = { "0": "any", "1": "with", "-1": "without" };

export default function (component) {
  const { data, parentElement, setStateValue } = component;
  const root = parentElement.querySelector(".tiles");
  root.memory ??= { revision: null, states: {}, open: {}, query: "" };
  const memory = root.memory;
  if (memory.revision !== data.revision) {
    memory.revision = data.revision;
    memory.states = { ...data.states };
  }

  const stateOf = (word) => String(memory.states[word] ?? 0);

  function change(group, word) {
    if (group.kind === "one") {
      const chosen = stateOf(word) === "1";
      if (chosen && data.required) return;
      for (const item of group.items) delete memory.states[item.word];
      if (!chosen) memory.states[word] = 1;
    } else {
      memory.states[word] = NEXT[stateOf(word)];
      if (memory.states[word] === 0) delete memory.states[word];
    }
    // The time makes each click a new value: the page may have moved the states since the last one.
    setStateValue("said", { states: { ...memory.states }, at: Date.now() });
    refresh();
  }

  function make(tag, className, text) {
    const element = document.createElement(tag);
    element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function tile(group, item) {
    const button = make("button", "tile");
    button.type = "button";
    button.dataset.word = item.word;
    const face = make("span", "face");
    face.style.width = face.style.height = `${data.size}px`;
    if (data.sprite && item.place >= 0) {
      face.style.backgroundImage = `url(${data.sprite})`;
      face.style.backgroundSize = `${data.count * 100}% 100%`;
      face.style.backgroundPosition = data.count > 1 ? `${(100 * item.place) / (data.count - 1)}% 0` : "0 0";
    }
    button.append(face);
    if (item.title) button.append(make("span", "name", item.title));
    return button;
  }

  function shelf(group) {
    const box = make(group.title ? "details" : "div", "shelf");
    const list = make("div", "list");
    list.setAttribute("role", "group");
    list.setAttribute("aria-label", group.title || data.label);
    if (group.title) {
      box.append(make("summary", "title"));
      box.open = memory.open[group.title] ?? group.open;
      box.ontoggle = () => { if (!memory.query) memory.open[group.title] = box.open; };
    }
    list.append(...group.items.map((item) => tile(group, item)));
    box.append(list);
    return box;
  }

  function refresh() {
    root.querySelectorAll(".tile").forEach((button) => {
      const state = stateOf(button.dataset.word);
      button.dataset.state = state;
      button.setAttribute("aria-pressed", String(state === "1"));
      const three = button.closest(".shelf").group.kind === "flags";
      const title = button.querySelector(".name")?.textContent || `picture ${Number(button.dataset.word) + 1}`;
      button.setAttribute("aria-label", three ? `${title}: ${SAID[state]}` : title);
      button.title = three ? `${title}: ${SAID[state]}` : title;
      button.hidden = !title.toLowerCase().includes(memory.query);
    });
    const none = root.querySelector(".none");
    none.hidden = [...root.querySelectorAll(".tile")].some((button) => !button.hidden);
    none.textContent = `No word has “${memory.query}”.`;
    root.querySelectorAll("details.shelf").forEach((box) => {
      const tiles = [...box.querySelectorAll(".tile")];
      const said = tiles.filter((button) => button.dataset.state !== "0");
      const names = said.map((button) => (button.dataset.state === "-1" ? "no " : "") + button.dataset.word);
      box.querySelector("summary").textContent = `${box.group.title} (${tiles.length})${names.length ? ": " + names.join(", ") : ""}`;
      box.classList.toggle("said", said.length > 0);
      box.hidden = tiles.every((button) => button.hidden);
      box.open = memory.query ? !box.hidden : (memory.open[box.group.title] ?? box.group.open);
    });
  }

  function moveFocus(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const tiles = [...root.querySelectorAll(".tile")].filter((button) => button.offsetParent);
    const place = tiles.indexOf(event.target);
    if (!step || place < 0) return;
    event.preventDefault();
    tiles[(place + step + tiles.length) % tiles.length].focus();
  }

  const shape = JSON.stringify([data.groups, data.sprite, data.size]);
  if (memory.shape !== shape) {
    memory.shape = shape;
    const focused = root.querySelector(".tile:focus")?.dataset.word;
    root.replaceChildren();
    if (data.search) {
      const search = make("input", "search");
      search.type = "search";
      search.placeholder = data.search;
      search.setAttribute("aria-label", data.search);
      search.value = memory.query;
      root.append(search);
    }
    root.append(make("p", "none"));
    for (const group of data.groups) {
      const box = shelf(group);
      box.group = group;
      root.append(box);
    }
    if (focused) root.querySelector(`.tile[data-word="${CSS.escape(focused)}"]`)?.focus();
  }
  const search = root.querySelector(".search");
  if (search) search.oninput = () => { memory.query = search.value.trim().toLowerCase(); refresh(); };
  root.onkeydown = moveFocus;
  root.querySelectorAll(".tile").forEach((button) => {
    const box = button.closest(".shelf");
    button.onclick = () => change(box.group, button.dataset.word);
  });
  refresh();
}
