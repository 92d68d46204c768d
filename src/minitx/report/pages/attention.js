// ---- one token ---------------------------------------------------------------------------------
const strongest = (count, of) => {
  const order = of.map((entry) => entry).sort((a, b) => b[1] - a[1] || b[0] - a[0]);
  return order.slice(0, count).filter((entry) => entry[1] > 0);
};
const looksAt = (i, count) => strongest(count, Array.from({ length: i + 1 }, (_, j) => [j, value(i, j)]));
const lookedBy = (j, count) =>
  strongest(count, Array.from({ length: seq - j - 1 }, (_, k) => [j + 1 + k, value(j + 1 + k, j)]));

const bar = (part) => {
  // A style attribute in markup would be refused by the page's own policy; a property is not.
  const made = node("span", { class: "bar" });
  made.style.width = `${(100 * Math.min(1, part)).toFixed(1)}%`;
  return made;
};
const fillBars = (table, entries, none) => {
  const rows = entries.map(([at, v]) => node("tr", {},
    node("td", { class: "at" }, String(at)),
    node("td", {}, piece(tokens[at])),
    node("td", { class: "track" }, bar(v / top)),
    node("td", { class: "value" }, amount(v))));
  const body = node("tbody", {}, ...(rows.length ? rows : [node("tr", {}, node("td", { class: "muted none", colspan: 4 }, none))]));
  table.querySelector("tbody")?.remove();
  table.append(body);
};
const lensText = (i) => {
  const next = i + 1 < seq ? tokens[i + 1] : null;
  const title = next === null
    ? "The text ends here, so there is no right answer to compare with."
    : "";
  $("lens-hint").textContent = title;
  if (next !== null) $("lens-hint").append("The token that follows is ", piece(next), ".");
  const head = node("thead", {}, node("tr", {},
    node("th", { scope: "col" }, "after"),
    node("th", { scope: "col", class: "number" }, next === null ? "" : "next"),
    node("th", { scope: "col" }, "most likely")));
  const rows = data.lens.layers.map((layer) => {
    const guesses = layer.top[i].slice(0, 4).flatMap(([id, p], k) => {
      const right = next !== null && data.lens.pieces[id] === next;
      return [k ? "  " : "", node("span", right ? { class: "next" } : {}, piece(data.lens.pieces[id])),
        " ", node("small", {}, `${Math.round(100 * p)} %`)];
    });
    const chance = next === null ? "" : `${(100 * layer.next[i]).toFixed(1)} %`;
    return node("tr", {}, node("th", { scope: "row" }, layer.name),
      node("td", { class: "number" }, chance), node("td", {}, ...guesses));
  });
  $("lens").querySelector("thead")?.remove();
  $("lens").querySelector("tbody")?.remove();
  $("lens").append(head, node("tbody", {}, ...rows));
};
const showToken = () => {
  const i = state.token;
  // Before the text is shaded: it measures the page, which would then be laid out twice.
  drawMap();
  shadeText();
  const name = $("token-name");
  name.textContent = `Token ${i}, `;
  name.append(node("b", {}, visible(tokens[i])), `, in ${mapName()}`);
  fillBars($("looks-at"), looksAt(i, 5), "nothing");
  fillBars($("looked-by"), lookedBy(i, 5), "no later token");
  if (data.lens.layers.length) lensText(i);
  const j = state.key;
  $("readout").textContent = j !== null && j <= i
    ? `${i} ${visible(tokens[i])} → ${j} ${visible(tokens[j])}: ${amount(value(i, j))}`
    : `row ${i}: ${visible(tokens[i])}`;
};
const say = () => {
  const found = looksAt(state.token, 5).map(([j, v]) => `${aloud(tokens[j])} at ${j}, ${amount(v)}`);
  $("said").textContent = `In ${mapName()}, token ${state.token}, ${aloud(tokens[state.token])}, looks at: ${found.join("; ")}.`;
};

// ---- the map as a whole --------------------------------------------------------------------
const showMap = () => {
  const one = state.kind === "head" ? roleOf.get(state.layer * nHeads + state.head) : null;
  $("layer").value = state.layer;
  $("head").value = state.head;
  $("kind").value = state.kind;
  $("measure").value = state.measure;
  $("head").disabled = $("measure").disabled = state.kind !== "head";
  $("role").textContent = one ? (one.role ? `${one.role} head` : "no single role") : "";
  measureTop();
  bigSheet = sheet(map(), byNorm() ? (i, j) => level(value(i, j)) : null);
  $("map-hint").textContent = `Rows are tokens that look, columns are tokens looked at: ${mapName()}.`;
  big.setAttribute("aria-label", `Attention map of ${mapName()}, ${seq} by ${seq} tokens. ` +
    "The list under One token says the same in words.");
  for (const button of $("heads").children) {
    const here = state.kind === "head" && +button.dataset.layer === state.layer && +button.dataset.head === state.head;
    button.setAttribute("aria-checked", String(here));
    button.tabIndex = +button.dataset.layer === state.layer && +button.dataset.head === state.head ? 0 : -1;
  }
  for (const row of $("roles").querySelectorAll("tbody tr")) {
    row.classList.toggle("here", +row.dataset.layer === state.layer && +row.dataset.head === state.head);
  }
  drawScale();
  showToken();
  const held = state.held === null ? "" : `&token=${state.held}`;
  // In a frame of a report or a notebook there is no address to keep it in.
  if (!framed) history.replaceState(null, "", `#layer=${state.layer}&head=${state.head}${held}`);
};
const choose = (change) => { Object.assign(state, change); showMap(); };

// ---- building what does not change ---------------------------------------------------------
const option = (count) => Array.from({ length: count }, (_, i) => node("option", { value: i }, String(i)));
$("layer").append(...option(nLayers));
$("head").append(...option(nHeads));
$("about").textContent = data.about;

const columns = Math.min(nHeads, 12);
$("heads").style.gridTemplateColumns = `repeat(${columns}, minmax(0, ${nHeads > 6 ? "7rem" : "9rem"}))`;
for (let layer = 0; layer < nLayers; layer++) {
  for (let head = 0; head < nHeads; head++) {
    const one = roleOf.get(layer * nHeads + head);
    const role = one && one.role ? one.role : "";
    $("heads").append(node("button", {
      type: "button", class: "thumb", role: "radio", "data-layer": layer, "data-head": head,
      "aria-checked": "false", "aria-label": `Layer ${layer}, head ${head}${role ? ", " + role : ""}`,
      title: role ? `layer ${layer}, head ${head}: ${role}` : `layer ${layer}, head ${head}`,
      onclick: () => choose({ kind: "head", layer, head }),
    }, node("canvas", { "aria-hidden": "true" }), node("span", {}, node("b", {}, `${layer}.${head}`), ` ${role.replace(" token", "")}`)));
  }
}

const rolesTable = () => {
  const { heads, names, measured_on: measured, ablated_on: ablated } = data.roles;
  if (!heads.length) { $("roles-part").hidden = true; return; }
  const withLoss = heads.some((one) => one.loss_change !== null);
  $("roles-hint").textContent = `Each score is a percentage, followed by its control: the score by chance. ` +
    `Measured on ${measured}. A head is named after a role whose score stands out.` +
    (withLoss ? ` Loss change: how much the loss rises, in nats per token, when the head is switched off; on ${ablated}.` : "");
  $("roles").append(node("thead", {}, node("tr", {},
    node("th", { scope: "col" }, "head"), node("th", { scope: "col" }, "role"),
    ...names.map((name) => node("th", { scope: "col", class: "number" }, name)),
    withLoss ? node("th", { scope: "col", class: "number" }, "loss change") : null)));
  $("roles").append(node("tbody", {}, ...heads.map((one) => {
    const { layer, head } = one;
    const pick = () => choose({ kind: "head", layer, head });
    return node("tr", { "data-layer": layer, "data-head": head, onclick: pick },
      node("th", { scope: "row" }, node("button", { type: "button", "aria-label": `Show layer ${layer}, head ${head}` }, `${layer}.${head}`)),
      node("td", {}, one.role || ""),
      ...names.map((name) => {
        const found = one.scores[name];
        if (!found) return node("td", { class: "number" }, "");
        const [score, control] = found.map((v) => Math.round(100 * v));
        return node("td", { class: one.role === name ? "number named" : "number" }, `${score} `, node("small", {}, String(control)));
      }),
      withLoss ? node("td", { class: "number" }, one.loss_change === null ? "" :
        `${one.loss_change >= 0 ? "+" : "−"}${Math.abs(one.loss_change).toFixed(4)} `,
        one.loss_error === null ? null : node("small", {}, `±${one.loss_error.toFixed(4)}`)) : null);
  })));
};
rolesTable();
if (!data.lens.layers.length) $("lens-part").hidden = true;

// ---- what a reader does ----------------------------------------------------------------------
$("kind").onchange = (event) => choose({ kind: event.target.value });
$("layer").onchange = (event) => choose({ layer: +event.target.value });
$("head").onchange = (event) => choose({ head: +event.target.value });
$("measure").onchange = (event) => choose({ measure: event.target.value });
$("theme").onclick = () => { nextTheme(); repaint(); };
system.onchange = () => repaint();
// A report that holds this page has a title and a choice of colours of its own.
addEventListener("message", (event) => {
  if (!framed || event.source !== parent || !themes.includes(event.data?.theme)) return;
  root.dataset.within = "report";
  wanted = event.data.theme;
  repaint();
});
const repaint = () => { paint(); drawThumbs(); showMap(); };

const at = (target) => { const span = target.closest?.(".token"); return span ? +span.dataset.i : null; };
const point = (token, key = null) => {
  if (token === state.token && key === state.key) return;
  Object.assign(state, { token, key });
  showToken();
};
$("text").addEventListener("mouseover", (event) => {
  const i = at(event.target);
  if (i !== null && state.held === null) point(i);
});
$("text").addEventListener("click", (event) => {
  const i = at(event.target);
  if (i === null) return;
  const held = state.held === i ? null : i;
  choose({ held, token: i, key: null });
  spans[i].focus();
  say();
});
$("text").addEventListener("focusin", (event) => {
  const i = at(event.target);
  if (i !== null && state.held === null) { point(i); say(); }
});
$("text").addEventListener("keydown", (event) => {
  const now = state.token;
  const moves = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1,
    Home: 0, End: seq - 1, PageDown: now + 10, PageUp: now - 10 };
  if (event.key in moves && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    const i = Math.max(0, Math.min(seq - 1, moves[event.key]));
    if (state.held !== null) state.held = i;
    point(i);
    spans[i].focus();
    say();
  } else if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    choose({ held: state.held === now ? null : now });
  } else if (event.key === "Escape") {
    choose({ held: null });
  }
});
$("heads").addEventListener("keydown", (event) => {
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: nHeads, ArrowUp: -nHeads };
  if (!(event.key in steps)) return;
  event.preventDefault();
  const index = state.layer * nHeads + state.head + steps[event.key];
  if (index < 0 || index >= nLayers * nHeads) return;
  choose({ kind: "head", layer: Math.floor(index / nHeads), head: index % nHeads });
  $("heads").children[index].focus();
});
const cellAt = (event) => {
  const box = big.getBoundingClientRect();
  const row = Math.floor((event.clientY - box.top - frame.top) / frame.cell);
  const column = Math.floor((event.clientX - box.left - frame.left) / frame.cell);
  return row >= 0 && row < seq ? [row, column >= 0 && column <= row ? column : null] : null;
};
let waiting = null;
big.addEventListener("pointermove", (event) => {
  if (waiting) cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(() => {
    waiting = null;
    const cell = cellAt(event);
    if (!cell) return;
    if (state.held === null) point(...cell);
    else if (cell[0] === state.held) point(...cell);
  });
});
big.addEventListener("click", (event) => {
  const cell = cellAt(event);
  if (cell) choose({ held: state.held === cell[0] ? null : cell[0], token: cell[0], key: cell[1] });
});
big.addEventListener("pointerleave", () => { if (state.key !== null) point(state.token, null); });
new ResizeObserver(() => drawMap()).observe(big.parentElement);

// ---- start -----------------------------------------------------------------------------------
const asked = new URLSearchParams(location.hash.slice(1));
const number = (name, below) => {
  const n = Number.parseInt(asked.get(name) ?? "", 10);
  return n >= 0 && n < below ? n : null;
};
state.layer = number("layer", nLayers) ?? state.layer;
state.head = number("head", nHeads) ?? state.head;
state.held = number("token", seq);
state.token = state.held ?? state.token;
// The sheet must exist before the observer first draws.
paint();
bigSheet = sheet(map());
drawThumbs();
showMap();
$("text").scrollTop = spans[state.token].offsetTop - $("text").clientHeight / 2;
