// ---- what is asked of the model, and what is shown -----------------------------------------------
const ask = async (name, given = {}) => {
  const answer = await fetch(`/answers/${name}`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(given),
  });
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error.message);
  return content;
};
const state = { ids: [], pieces: [], chances: [], at: 0, logits: [], order: [], token: 0, step: 0, head: 0, of: "" };
let vocabulary = [], steps = [], visit = 0, playing = 0, spans = [];
const context = () => state.ids.slice(0, state.at + 1);
const percent = (p) => (p >= 0.9995 ? "100 %" : `${(100 * p).toPrecision(p < 0.001 ? 1 : 3)} %`);
// Runs `work`, and shows its error; what comes too late is thrown away by `isCurrent`.
const trying = async (place, work) => {
  try { $(place).textContent = ""; await work(); } catch (error) { $(place).textContent = error.message; }
};

// ---- the text and what comes next ----------------------------------------------------------------
const settings = () => ({
  temperature: +$("temperature").value, topK: +$("top-k").value, topP: +$("top-p").value, minP: +$("min-p").value,
});
// As `minitx generate` does: temperature, then the cuts, over tokens from the likeliest on.
const filtered = (logits, order, { temperature, topK, topP, minP }) => {
  const top = logits[order[0]];
  if (temperature < 1e-5) return Float64Array.of(1);
  const weights = Float64Array.from(order, (i) => Math.exp((logits[i] - top) / temperature));
  let kept = order.length;
  if (topK > 0 && topK < kept) {
    const lowest = logits[order[topK - 1]];
    for (kept = topK; kept < order.length && logits[order[kept]] >= lowest;) kept++;
  }
  const sum = (count) => weights.subarray(0, count).reduce((a, b) => a + b, 0);
  if (topP < 1) {
    const all = sum(kept);
    for (let tail = weights[kept - 1]; kept > 1 && tail / all <= 1 - topP; tail += weights[kept - 1]) kept--;
  }
  while (kept > 1 && weights[kept - 1] < minP) kept--;
  const all = sum(kept);
  return weights.subarray(0, kept).map((w) => w / all);
};
const drawn = (chances, order, number) => {
  // Laid out along a line in the order of ids; the number points at a token.
  const line = Array.from(chances, (p, i) => [order[i], p]).sort((a, b) => a[0] - b[0]);
  let passed = 0;
  for (const [id, p] of line) { passed += p; if (number < passed) return id; }
  return line[line.length - 1][0];
};
const showNext = () => {
  const { logits, order, token } = state;
  const plain = filtered(logits, order, { temperature: 1, topK: 0, topP: 1, minP: 0 });
  const now = filtered(logits, order, settings());
  for (const [id, off] of [["temperature", ""], ["top-k", "0"], ["top-p", ""], ["min-p", ""], ["number", ""]]) {
    $(`${id}-value`).textContent = $(id).value === off ? "off" : $(id).value;
  }
  const listed = [...order.slice(0, 12).keys()];
  const rank = order.indexOf(token);
  if (rank >= listed.length) listed.push(rank);
  $("next").tBodies[0].replaceChildren(...listed.map((i) => {
    const p = now[i] ?? 0, name = aloud(vocabulary[order[i]]);
    const made = cells("td", node("button", { type: "button", "aria-label": `Go on with ${name}`, onclick: () => goOn(order[i]) }, piece(vocabulary[order[i]])),
      percent(plain[i]), p ? percent(p) : "cut", bar(p), node("button", { type: "button", "aria-label": `Why ${name}?`, onclick: () => why(order[i], true) }, "why?"));
    made.children[1].className = made.children[2].className = "number";
    made.children[3].className = "track";
    made.className = `${p ? "" : "cut"} ${order[i] === token ? "why" : ""}`.trim();
    return made;
  }));
  state.draw = drawn(now, order, +$("number").value);
  $("kept").textContent = `${now.length.toLocaleString("en")} of ${order.length.toLocaleString("en")} tokens can be drawn.`;
  $("draw").replaceChildren("Draw: ", piece(vocabulary[state.draw]));
};
const shadeText = () => {
  const glow = getComputedStyle(root), strong = glow.getPropertyValue("--glow"), on = glow.getPropertyValue("--on-glow");
  spans.forEach((span, i) => {
    const alpha = state.chances[i] === null ? 0 : Math.sqrt(state.chances[i]);
    span.style.background = `rgba(${strong},${(0.95 * alpha).toFixed(3)})`;
    span.style.color = alpha > 0.62 ? on : "";
    span.classList.toggle("dark", alpha > 0.62);
    span.classList.toggle("here", i === state.at);
    span.setAttribute("aria-selected", String(i === state.at));
    span.tabIndex = i === state.at ? 0 : -1;
  });
};
const choose = async (i) => {
  state.at = i;
  const mine = ++visit, p = state.chances[i];
  shadeText();
  $("chosen").replaceChildren(`Token ${i}, `, piece(state.pieces[i]), `, id ${state.ids[i]}`, p === null ? ": nothing before it" : `: ${percent(p)} likely, ${(-Math.log2(p)).toFixed(2)} bits`);
  await trying("problem", async () => {
    const logits = floats(await ask("distribution", { ids: context() }));
    if (mine !== visit) return;
    Object.assign(state, { logits, of: context().join() });
    state.order = [...logits.keys()].sort((a, b) => logits[b] - logits[a] || a - b);
    state.token = state.order[0];
    why(state.token);
    if (!data.parts) return;
    steps = await ask("steps", { ids: context() });
    if (mine === visit) { listSteps(); showStep(); }
  });
};
const open = (answer) => {
  Object.assign(state, { ids: answer.ids, pieces: answer.pieces, chances: answer.chances });
  spans = state.pieces.map(tokenSpan);
  $("text").replaceChildren(...spans);
  showTree();
  return choose(state.ids.length - 1);
};
const read = (given) => trying("problem", async () => {
  const mine = ++visit;
  const answer = await ask("read", given);
  if (mine !== visit) return;
  remember(answer.ids);
  await open(answer);
});

// ---- the tree: each node is a text, below the longest other that it begins with ------------------
const tree = new Map();
const remember = (ids) => { tree.set(ids.join(), ids); if (tree.size > 200) tree.delete(tree.keys().next().value); };
const goOn = (token) => {
  const ids = [...context(), token].slice(-data.context);
  return read({ ids });
};
const showTree = () => {
  const texts = [...tree.values()].sort((a, b) => a.length - b.length), items = new Map();
  $("tree").replaceChildren();
  for (const ids of texts) {
    const parent = texts.filter((other) => other.length < ids.length && other.every((id, i) => id === ids[i])).pop();
    const words = ids.slice(parent?.length ?? 0).map((id) => vocabulary[id]).join("");
    const here = ids.join() === state.ids.join();
    const button = node("button", { type: "button", "aria-current": String(here), onclick: () => read({ ids }) }, visible(words.length > 60 ? `…${words.slice(-59)}` : words));
    const below = node("ul"), item = node("li", {}, button, below);
    items.set(ids, below);
    (parent ? items.get(parent) : $("tree")).append(item);
  }
};

// ---- one pass, step by step ----------------------------------------------------------------------
const listSteps = () => {
  state.step = Math.min(state.step, steps.length - 1);
  $("scrub").max = steps.length - 1;
  const groups = new Map();
  steps.forEach((step, i) => {
    if (!groups.has(step.where)) groups.set(step.where, node("optgroup", { label: step.where }));
    groups.get(step.where).append(node("option", { value: i }, `${step.where}: ${step.name}`));
  });
  $("step").replaceChildren(...groups.values());
};
const showStep = (row = 0, column = 0) => trying("problem", async () => {
  const step = steps[state.step], mine = visit, wanted = state.step;
  state.head = Math.min(state.head, Math.max(0, step.heads - 1));
  $("scrub").value = $("step").value = wanted;
  $("scrub").setAttribute("aria-valuetext", `${step.where}: ${step.name}`);
  $("head-of").hidden = !step.heads;
  $("head").replaceChildren(...Array.from({ length: step.heads }, (_, i) => node("option", { value: i }, String(i))));
  $("head").value = state.head;
  const [n, width] = step.shape;
  const of = step.heads ? `${step.heads} heads × ` : "";
  $("formula").textContent = `${step.where}, ${step.name}: ${step.formula}   (${of}${n} tokens × ${width} ${step.columns})`;
  $("line").textContent = `transformer.py, line ${step.line}`;
  $("line").onclick = () => showSource(step.line);
  $("code").textContent = step.code;
  const part = await ask("numbers", { ids: context(), step: wanted, head: state.head, row, column });
  if (mine !== visit || wanted !== state.step) return;
  const [tall, wide] = part.shape;
  const turn = (name, to, able) => {
    const made = node("button", { type: "button", onclick: () => showStep(...to) }, name);
    made.disabled = !able;
    return made;
  };
  const pages = [];
  if (tall < n) pages.push(turn("Earlier rows", [Math.max(0, row - tall), column], row > 0), `rows ${row} to ${row + tall - 1} of ${n}`, turn("Later rows", [row + tall, column], row + tall < n));
  if (wide < width) pages.push(turn("Columns before", [row, Math.max(0, column - 512)], column > 0), `columns ${column} to ${column + wide - 1} of ${width}`, turn("Columns after", [row, column + wide], column + wide < width));
  $("pager").replaceChildren(...pages);
  const token = (i) => `${i} ${visible(state.pieces[i])}`;
  const named = { "token looked at": token, token: (i) => `${i} ${visible(vocabulary[i])}` }[step.columns] ?? ((i) => `${step.columns} ${i}`);
  drawGrid($("numbers"), {
    rows: Array.from({ length: tall }, (_, i) => token(row + i)), columns: Array.from({ length: wide }, (_, i) => named(column + i)),
    values: floats(part.values), name: `${step.where}, ${step.name}`,
  });
});
const toStep = (i) => { state.step = Math.max(0, Math.min(steps.length - 1, i)); return showStep(); };
const stop = () => { clearInterval(playing); playing = 0; $("play").textContent = "Play"; };
const showSource = async (line) => {
  if (!$("lines").children.length) {
    const lines = await ask("source");
    $("lines").replaceChildren(...lines.map((text, i) => node("div", { id: `line-${i + 1}` }, `${String(i + 1).padStart(4)}  ${text}`)));
  }
  $("source").open = true;
  $("lines").querySelector(".here")?.classList.remove("here");
  const here = $(`line-${line}`);
  here.classList.add("here");
  here.scrollIntoView({ block: "center" });
};

// ---- what a reader does --------------------------------------------------------------------------
let typing = 0;
$("prompt").oninput = () => { clearTimeout(typing); typing = setTimeout(() => read({ text: $("prompt").value }), 350); };
for (const id of ["temperature", "top-k", "top-p", "min-p", "number"]) $(id).oninput = showNext;
$("roll").onclick = () => { $("number").value = Math.random(); showNext(); };
$("draw").onclick = () => goOn(state.draw);
$("text").addEventListener("click", (event) => {
  const span = event.target.closest(".token");
  if (span) { choose(+span.dataset.i); span.focus(); }
});
$("text").addEventListener("keydown", (event) => {
  const moves = { ArrowRight: state.at + 1, ArrowLeft: state.at - 1, ArrowDown: state.at + 1, ArrowUp: state.at - 1, Home: 0, End: spans.length - 1 };
  if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const i = Math.max(0, Math.min(spans.length - 1, moves[event.key]));
  choose(i);
  spans[i].focus();
});
$("back").onclick = () => { stop(); toStep(state.step - 1); };
$("ahead").onclick = () => { stop(); toStep(state.step + 1); };
$("scrub").oninput = (event) => { stop(); toStep(+event.target.value); };
$("step").onchange = (event) => { stop(); toStep(+event.target.value); };
$("head").onchange = (event) => { state.head = +event.target.value; showStep(); };
$("play").onclick = () => {
  if (playing) { stop(); return; }
  if (state.step === steps.length - 1) state.step = -1;
  toStep(state.step + 1);
  playing = setInterval(() => { if (state.step < steps.length - 1) toStep(state.step + 1); else stop(); }, 1500);
  $("play").textContent = "Pause";
};
const repaint = () => { paintPage(); shadeText(); grids.forEach((grid) => grid.repaint()); };
$("theme").onclick = () => { nextTheme(); repaint(); };
system.onchange = repaint;
