// ---- the film of a run: what its model did with one text, moment by moment ------------------------
// `moments` are those of film.jsonl; NaN is null. Needs tokens.js and grid.js.
const showFilm = (host, moments) => {
  const last = moments[moments.length - 1], heads = last.heads;
  const name = (i) => `${Math.floor(i / heads)}.${i % heads}`;
  const whole = (p) => `${Math.round(100 * p)} %`;
  const plain = (text) => [...text].map((c) => (c === "\n" ? c : control(c))).join("");
  const strongest = (values) => values.indexOf(Math.max(...values));
  const now = { at: moments.length - 1, head: strongest(last.roles.includes("induction") ? last.induction : last.strengths) };
  const slider = node("input", { type: "range", min: 0, max: moments.length - 1, "aria-label": "Moment of the film" });
  const said = node("p", { class: "film-said" });
  const play = node("button", { type: "button" }, "Play");
  const [strip, map, roles, lens, losses] = Array.from({ length: 5 }, () => node("div"));
  const text = node("p", { class: "film-text" });
  const part = (title, hint, ...content) => node("div", {}, node("h3", {}, title), hint && node("p", { class: "hint" }, hint), ...content);
  const rows = (names, made) => node("div", { class: "wide" }, node("table", {},
    node("thead", {}, node("tr", {}, ...names.map((one) => node("th", { scope: "col" }, one)))), node("tbody", {}, ...made)));

  const buttons = last.roles.map((_, i) => node("button", { type: "button", onclick: () => show(now.at, i) }));
  const showRoles = (moment) => buttons.forEach((button, i) => {
    button.textContent = `${name(i)} ${moment.roles[i] ? `${moment.roles[i].replace(" token", "")} ${whole(moment.strengths[i])}` : "–"}`;
    button.setAttribute("aria-pressed", String(i === now.head));
  });
  const byLayer = Array.from({ length: last.layers }, (_, i) => cells("td", `layer ${i}`, ...buttons.slice(i * heads, (i + 1) * heads)));
  roles.append(node("div", { class: "wide" }, node("table", { class: "film-roles" }, node("tbody", {}, ...byLayer))));
  const showMap = (moment) => {
    const seq = moment.tokens.length, packed = atob(moment.maps), size = (seq * (seq + 1)) / 2, values = new Float32Array(seq * seq);
    for (let i = 0, q = now.head * size; i < seq; i++) for (let j = 0; j <= i; j++, q++) values[i * seq + j] = (packed.charCodeAt(q) / 255) ** 2;
    const tokens = moment.tokens.map((one, i) => `${i} ${visible(one)}`);
    drawGrid(map, { top: 1, rows: tokens, columns: tokens, values, name: `Attention of head ${name(now.head)} at step ${moment.step}; a row looks, a column is looked at` });
  };
  const showLens = (moment) => lens.replaceChildren(...moment.lens.slice(-1).map((one) => node("div", {},
    node("p", {}, "After token ", String(one.position), ", ", piece(moment.tokens[one.position]), ", the text goes on with ", piece(one.following), "."),
    rows(["after", "chance of it", "likeliest"], one.likeliest.map((guesses, i) => cells("td", i ? `layer ${i - 1}` : "embedding", percentOf(one.chances[i]),
      node("span", {}, ...guesses.flatMap(([token, p]) => [piece(token), ` ${percentOf(p)}  `]))))))));
  const percentOf = (p) => (p === null ? "NaN" : `${(100 * p).toFixed(1)} %`);
  const highest = Math.max(...moments.flatMap((one) => Object.values(one.classes)));
  const showLosses = (moment) => losses.replaceChildren(rows(["class", "loss", ""], Object.entries({ all: moment.loss, ...moment.classes }).map(([of, loss]) =>
    cells("td", of, loss === null ? "NaN" : loss.toFixed(2), bar((loss ?? 0) / highest)))));
  const show = (at, head = now.head) => {
    Object.assign(now, { at, head });
    const moment = moments[at], named = moment.roles.filter((role) => role).length;
    const induction = moment.induction.length ? `; induction ${whole(Math.max(...moment.induction))}` : "";
    const about = `step ${moment.step.toLocaleString("en")}: loss ${moment.loss === null ? "NaN" : moment.loss.toFixed(3)}` +
      (heads ? `; ${named} of ${moment.roles.length} heads have a role${induction}` : "");
    slider.value = at;
    slider.setAttribute("aria-valuetext", about);
    said.textContent = about[0].toUpperCase() + about.slice(1);
    if (heads && moment.heads === heads) { showRoles(moment); showMap(moment); }
    if (through) through.go(head, at);
    showLens(moment);
    showLosses(moment);
    text.replaceChildren(node("span", { class: "muted" }, plain(moment.tokens.join(""))), plain(moment.sample));
  };
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; };
  play.onclick = () => {
    if (timer) { stop(); return; }
    if (now.at === moments.length - 1) show(0);
    play.textContent = "Pause";
    timer = setInterval(() => { show(now.at + 1); if (now.at === moments.length - 1) stop(); }, 500);
  };
  slider.oninput = () => { stop(); show(+slider.value); };

  host.replaceChildren(node("div", { class: "controls play" }, play, slider), said, node("div", { class: "film" },
    node("div", {}, last.induction.length ? part("Induction", "How much a head looks at what came after the same token earlier, from 0 to 1. A row is a head, 1.0 the first of layer 1; a column is a moment; choose one.", strip) : null,
      heads ? part("Attention of one head", "Choose a head; beside its number is its role at this moment, and how strong. In the map a row is a token that looks, a column one that it looks at.", roles, map) : null),
    node("div", {}, part("What it would write next", null, text), part("Loss by class of token, nats per token", null, losses),
      last.lens.length ? part("What each layer would say", null, lens) : null)));
  const through = last.induction.length ? drawGrid(strip, {
    top: 1, rows: last.roles.map((_, i) => name(i)), columns: moments.map((one) => `step ${one.step}`), name: "Strength of induction by head and step",
    values: last.roles.flatMap((_, i) => moments.map((one) => Math.max(0, one.induction[i] ?? 0))),
    pick: (head, at) => { stop(); show(at, head); },
  }) : null;
  show(now.at);
};
