// ---- why this token ------------------------------------------------------------------------------
const headNames = () => Array.from({ length: data.layers * data.heads }, (_, i) => `${Math.floor(i / data.heads)}.${i % data.heads}`);
const byLayer = Array.from({ length: data.layers }, (_, i) => `layer ${i}`);
const tokensBefore = () => context().map((_, i) => `${i} ${visible(state.pieces[i])}`);
const row = (name, ...contents) => cells("td", name, ...contents);
const table = (names, rows) => node("div", { class: "wide" }, node("table", {},
  node("thead", {}, node("tr", {}, ...names.map((name) => node("th", { scope: "col" }, name)))), node("tbody", {}, ...rows)));
const times = (n) => (n === 1 ? "once" : `${n.toLocaleString("en")} times`);
const signed = (v) => `${v < 0 ? "−" : "+"}${Math.abs(v).toFixed(4)}`;

const panels = {
  attention: async (given) => {
    const found = await ask("attention", given);
    return (host) => drawGrid(host, {
      rows: [...headNames(), ...byLayer.map((_, i) => `rollout ${i}`)], columns: tokensBefore(),
      values: [...floats(found.weights), ...floats(found.rollout)], name: "Attention of the last token by head",
    });
  },
  lens: async (given) => {
    const found = await ask("lens", given);
    return (host) => host.replaceChildren(table(["after", "this token", "its rank", "likeliest"], found.map((one) =>
      row(one.after, percent(one.chance), String(one.rank), node("span", {}, ...one.top.flatMap(([id, p]) => [piece(vocabulary[id]), ` ${percent(p)}  `]))))));
  },
  attribution: async (given) => {
    const { logit, total, parts } = await ask("attribution", given);
    parts.sort((a, b) => Math.abs(b[3]) - Math.abs(a[3]));
    return (host) => {
      const rows = parts.map(([name, , , v]) => row(name, signed(v), bar(Math.abs(v / parts[0][3]), v < 0)));
      const made = table(["part", "logit", ""], [...rows, row("sum", signed(total), ""), row("the model's logit", signed(logit), "")]);
      for (const one of made.querySelectorAll("td:last-child")) one.style.width = "12rem";
      host.replaceChildren(made);
    };
  },
  ablation: async (given) => {
    const { heads, mlp } = await ask("ablation", given);
    return (host) => drawGrid(host, {
      rows: byLayer, columns: [...heads[0].map((_, i) => `head ${i}`), "MLP"],
      values: heads.flatMap((one, i) => [...one, mlp[i]]), name: "Change of the logit without a head or MLP",
    });
  },
  patching: async () => (host) => host.replaceChildren(),
  passages: async (given) => {
    const found = await ask("passages", given);
    return (host) => {
      if (found.missing || !found.length) { host.textContent = found.missing ?? "Its last token does not occur in the training text."; return; }
      host.replaceChildren(
        node("p", {}, `In the first ${found.searched.toLocaleString("en")} tokens of the training text, the last ${found.length} occur ${times(found.count)}. Then came: `,
          ...found.following.flatMap(([, text, n]) => [piece(text), ` ${times(n)}  `])),
        ...found.excerpts.map((one) => node("p", { class: "passage" }, one.before, node("mark", {}, one.same), node("b", {}, one.after))));
    };
  },
};
const opened = (name) => document.querySelector(`details[data-panel="${name}"]`);
const fill = async (name) => {
  const key = `${context().join()} ${state.token}`, host = $(name);
  if (!opened(name).open || host.dataset.key === key) return;
  host.dataset.key = key;
  host.textContent = "…";
  try {
    const draw = await panels[name]({ ids: context(), token: state.token });
    if (host.dataset.key === key) draw(host);
  } catch (error) { host.textContent = error.message; }
};
const why = (token, jump = false) => {
  state.token = token;
  showNext();
  const p = filtered(state.logits, state.order, { temperature: 1, topK: 0, topP: 1, minP: 0 })[state.order.indexOf(token)];
  $("target").replaceChildren("Followed: ", piece(vocabulary[token]), ` after token ${state.at}, `, piece(state.pieces[state.at]), `; ${percent(p)}, logit ${shown(state.logits[token])}.`);
  Object.keys(panels).forEach(fill);
  if (jump) { $("target").scrollIntoView({ block: "center" }); $("target").focus(); }
};
for (const name of Object.keys(panels)) opened(name).addEventListener("toggle", () => fill(name));
opened("film").addEventListener("toggle", async () => {
  const host = $("film");
  if (host.childNodes.length) return;
  try { showFilm(host, await ask("film")); } catch (error) { host.textContent = error.message; }
});

const patch = () => trying("patch-problem", async () => {
  const given = { ids: context(), token: state.token, text: $("corrupted").value };
  const found = await ask("patching", given), host = $("patching");
  const way = found.clean - found.corrupted, tokens = found.tokens.map((one, i) => `${i} ${visible(one)}`);
  const parts = { heads: "a head, at all positions", residual: "the stream before a block", attention: "what attention adds", mlp: "what the MLP adds" };
  host.replaceChildren(node("p", {}, `Logit of `, piece(vocabulary[given.token]), `: clean ${found.clean.toFixed(3)}, corrupted ${found.corrupted.toFixed(3)}. Each number is the logit with one part of the clean run, less the corrupted one; all the way is ${signed(way)}.`));
  for (const [part, name] of Object.entries(parts)) {
    const place = node("div"), byHead = part === "heads", one = node("div");
    host.append(node("h3", {}, `Patched: ${name}${byHead ? "" : ", at one position"}`), place, one);
    drawGrid(place, {
      rows: byLayer, columns: byHead ? found.heads[0].map((_, i) => `head ${i}`) : tokens,
      values: found[part].flat().map((v) => v - found.corrupted), name: `Patched: ${name}`,
      pick: !byHead ? null : (layer, head) => trying("patch-problem", async () => {
        const { by_position: values } = await ask("patching", { ...given, layer, head });
        drawGrid(one, { rows: [`${layer}.${head}`], columns: tokens, values: values.map((v) => v - found.corrupted), name: `Head ${layer}.${head} patched at one position` });
      }),
    });
  }
});
$("patch").onclick = patch;

// ---- start ---------------------------------------------------------------------------------------
paintPage();
$("prompt").value = $("corrupted").value = data.prompt;
trying("problem", async () => {
  vocabulary = await ask("vocabulary");
  await read({ text: data.prompt });
});
// For a browser's console.
window.explorer = { $, root, state, context, settings, filtered, toStep, stop, opened, showSource, get steps() { return steps; }, get spans() { return spans; } };
