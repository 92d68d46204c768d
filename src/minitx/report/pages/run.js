let saying = null;
const say = (words) => {
  clearTimeout(saying);
  saying = setTimeout(() => { $("said").textContent = words; }, 120);
};

// ---- events on the curve --------------------------------------------------------------------
const allEvents = () => runs.flatMap((run, i) => run.events.map((event, place) => ({ ...event, run: i, place })));
const drawEvents = (plot) => {
  const pen = plot.ctx, ratio = devicePixelRatio || 1;
  const { left, top, width, height } = plot.bbox;
  pen.save();
  pen.beginPath(); pen.rect(left, top, width, height); pen.clip();
  const taken = [];
  allEvents().forEach((event, number) => {
    const x = event[state.axis];
    if (x === null) return;
    const where = Math.round(plot.valToPos(x, "x", true));
    const chosen = state.event === number;
    pen.strokeStyle = pen.fillStyle = colour(event.severity) || colour("info");
    pen.lineWidth = (chosen ? 2.5 : 1) * ratio;
    pen.setLineDash(chosen ? [] : [4 * ratio, 3 * ratio]);
    pen.beginPath(); pen.moveTo(where, top); pen.lineTo(where, top + height); pen.stroke();
    pen.font = `${12 * ratio}px ${colour("sans")}`;
    pen.textBaseline = "top";
    const words = String(number + 1), room = pen.measureText(words).width;
    pen.textAlign = where + room + 8 * ratio > left + width ? "right" : "left";
    // Numbers of events that are close stand below each other.
    const above = taken.filter((other) => Math.abs(other - where) < 16 * ratio).length;
    taken.push(where);
    pen.fillText(words, where + (pen.textAlign === "right" ? -3 : 3) * ratio, top + (3 + 14 * above) * ratio);
  });
  pen.restore();
};
const showEvent = (number) => {
  const event = allEvents()[number], x = event[state.axis];
  if (x === null) return;
  state.event = number;
  const [low, high] = extent(), reach = (high - low) / 12;
  zoomTo([Math.max(low, x - reach), Math.min(high, x + reach)]);
  quietly();
  charts[0].draw();
  charts[0].figure.scrollIntoView({ block: "center" });
  charts[0].canvas.focus({ preventScroll: true });
  say(`The curve shows ${at(x)}, around event ${number + 1}, ${event.name}.`);
};
[...document.querySelectorAll(".event")].forEach((item, number) => {
  item.append(node("button", { type: "button", "aria-label": `Show event ${number + 1} on the curve`, onclick: () => showEvent(number) }, "on the curve"));
});

// ---- zoom ---------------------------------------------------------------------------------------
let zooming = false;
const quietly = () => {
  // uPlot applies a scale in a microtask; its hook must still find the flag.
  zooming = true;
  queueMicrotask(() => queueMicrotask(() => { zooming = false; }));
};
const zoomTo = (range, from = null) => {
  state.zoom = range;
  quietly();
  const [min, max] = range ?? extent();
  for (const chart of charts) if (chart !== from && chart.plot) chart.plot.setScale("x", { min, max });
};
const zoomBy = (factor, around) => {
  const [low, high] = extent(), [min, max] = state.zoom ?? [low, high];
  const middle = around >= min && around <= max ? around : (min + max) / 2;
  const from = Math.max(low, middle - (middle - min) * factor), to = Math.min(high, middle + (max - middle) * factor);
  if (to - from < (high - low) / 5000) return;
  zoomTo(from <= low && to >= high ? null : [from, to]);
};
const move = (part) => {
  const [low, high] = extent(), [min, max] = state.zoom ?? [low, high];
  const by = Math.max(low - min, Math.min(high - max, (max - min) * part));
  if (by) zoomTo([min + by, max + by]);
};

// ---- the charts of this page ----------------------------------------------------------------------
const layersOf = (key, whole) => () => {
  const chosen = $(key === "gradient_norms" ? "gradient-of" : "update-of").value;
  return chosen === "whole" ? whole() : layerSeries(runs[+chosen][key]);
};
const titles = { loss: "Loss", perplexity: "Perplexity", bits_per_byte: "Bits per byte" };
const charts = [
  new Chart("loss-plot", "Loss", 380, lossSeries, { log: "loss", events: true, title: () => titles[state.measure] }),
  new Chart("rate-plot", "Learning rate", 190, rateSeries),
  new Chart("gradient-plot", "Gradient norm", 240, layersOf("gradient_norms", wholeNorm), { log: "gradient" }),
  new Chart("update-plot", "Update ratio", 240, layersOf("update_ratios", () => []), { log: "update" }),
];
const drawAll = () => { quietly(); saySmoothing(); charts.forEach((chart) => chart.draw()); };
const fillOf = (id, key, whole) => {
  const withLayers = runs.map((run, i) => [run, i]).filter(([run]) => run[key].layers.length);
  $(id).append(...withLayers.map(([run, i]) => node("option", { value: i }, several ? `layers of ${run.name}` : "each layer")));
  if (whole) $(id).append(node("option", { value: "whole" }, several ? "whole models" : "the whole model"));
  if (several && whole) $(id).value = "whole";
  if (!several && !whole) $(id).closest("label").hidden = true;
};
fillOf("gradient-of", "gradient_norms", true);
fillOf("update-of", "update_ratios", false);

// ---- samples: one at a time, with a slider ----------------------------------------------------------
for (const part of document.querySelectorAll(".speech")) {
  const items = [...part.querySelectorAll(".samples > li")];
  if (items.length < 2) continue;
  const name = several ? ` of ${runs[+part.dataset.run].name}` : "";
  const slider = node("input", { type: "range", min: 0, max: items.length - 1, step: 1, "aria-label": `Sample through training${name}` });
  const button = node("button", { type: "button" }, "Play");
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  const show = (i) => {
    slider.value = i;
    items.forEach((item, k) => { item.hidden = k !== i; });
    slider.setAttribute("aria-valuetext", items[i].querySelector("h3").textContent);
  };
  button.addEventListener("click", () => {
    if (timer) { stop(); return; }
    if (+slider.value === items.length - 1) show(0);
    button.textContent = "Pause";
    timer = setInterval(() => {
      show(+slider.value + 1);
      if (+slider.value === items.length - 1) stop();
    }, 900);
  });
  slider.addEventListener("input", () => { stop(); show(+slider.value); });
  part.querySelector(".samples").before(node("div", { class: "play" }, button, slider));
  show(items.length - 1);
}

// ---- attention in its frame ---------------------------------------------------------------------------
const frame = $("attention");
if (frame) {
  const fit = () => {
    const inside = frame.contentDocument?.documentElement;
    if (!inside?.querySelector("main")) return;
    const resize = () => { frame.style.height = `${Math.ceil(inside.ownerDocument.body.getBoundingClientRect().height) + 8}px`; };
    new ResizeObserver(resize).observe(inside.ownerDocument.body);
    frame.contentWindow.postMessage({ theme: root.dataset.theme }, "*");
    resize();
  };
  frame.addEventListener("load", fit);
  if (frame.contentDocument?.readyState === "complete") fit();
}

// ---- the film ----------------------------------------------------------------------------------------
if (data.film?.length) showFilm($("film"), data.film);

// ---- what a reader does ---------------------------------------------------------------------------------
const redraw = (change) => { Object.assign(state, change); drawAll(); };
$("measure").value = state.measure;
$("measure").onchange = (event) => redraw({ measure: event.target.value });
$("axis").onchange = (event) => redraw({ axis: event.target.value, zoom: null });
$("smoothing").onchange = (event) => redraw({ smoothing: event.target.value });
$("amount").max = largestAmount;
$("amount").value = state.amount;
$("amount").oninput = (event) => redraw({ amount: +event.target.value });
for (const key of ["loss", "gradient", "update"]) {
  $(`log-${key}`).onchange = (event) => { state.log[key] = event.target.checked; drawAll(); };
}
$("gradient-of").onchange = $("update-of").onchange = () => drawAll();
$("closer").onclick = () => zoomBy(0.5);
$("farther").onclick = () => zoomBy(2);
$("earlier").onclick = () => move(-0.4);
$("later").onclick = () => move(0.4);
$("all").onclick = () => zoomTo(null);
const repaint = () => { paint(); drawAll(); grids.forEach((grid) => grid.repaint()); };
$("theme").onclick = () => { nextTheme(); repaint(); };
system.onchange = repaint;
repaint();
