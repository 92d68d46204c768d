// ---- what the page was given -------------------------------------------------------------
const { runs, tokenizers_differ: tokenizersDiffer } = data;
const several = runs.length > 1;
const state = {
  measure: several && tokenizersDiffer ? "bits_per_byte" : "loss",
  axis: "step", smoothing: "centred", amount: 0,
  log: { loss: false, gradient: true, update: true },
  zoom: null, hidden: new Set(), event: null,
};

// ---- numbers in words -------------------------------------------------------------------
const short = (v) => {
  const size = Math.abs(v);
  if (size >= 1e9) return `${+(v / 1e9).toPrecision(3)} B`;
  if (size >= 1e6) return `${+(v / 1e6).toPrecision(3)} M`;
  if (size >= 1e4) return `${+(v / 1e3).toPrecision(3)} k`;
  if (size !== 0 && size < 1e-3) return v.toExponential(1).replace("e-", "e−").replace(".0e", "e");
  return String(+v.toPrecision(4));
};
const exact = (v) => (v !== 0 && Math.abs(v) < 1e-3 ? v.toExponential(2) : String(+v.toPrecision(5)));
const time = (s) => {
  if (s < 60) return `${+s.toPrecision(3)}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${String(Math.round(s % 60)).padStart(2, "0")}s`;
  return `${Math.floor(s / 3600)}h${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}m`;
};
const axes = {
  step: { name: "step", write: short },
  tokens: { name: "tokens", write: short },
  seconds: { name: "training time", write: time },
};
const at = (x) => (state.axis === "step" ? `step ${Math.round(x).toLocaleString("en")}`
  : state.axis === "tokens" ? `${short(x)} tokens` : time(x));

// ---- smoothing: always of the loss, over the logged steps -------------------------------
// A centred mean takes as many points before as after; an exponential one only those before,
// so that it lags. Its first values are divided by the weight they have (Kingma and Ba 2015).
const smooth = (values, points) => {
  if (state.smoothing === "exponential") {
    const keep = 2 ** (-1 / points);
    let sum = 0, weight = 0;
    return values.map((v) => {
      if (v === null) return null;
      sum = keep * sum + (1 - keep) * v;
      weight = keep * weight + (1 - keep);
      return sum / weight;
    });
  }
  // Sums up to each point, so that a long mean costs no more than a short one.
  const half = Math.floor(points / 2), sums = [0], counts = [0];
  values.forEach((v, i) => { sums.push(sums[i] + (v ?? 0)); counts.push(counts[i] + (v === null ? 0 : 1)); });
  return values.map((v, i) => {
    if (v === null) return null;
    const reach = Math.min(half, i, values.length - 1 - i), from = i - reach, to = i + reach + 1;
    return (sums[to] - sums[from]) / (counts[to] - counts[from]);
  });
};
const mostPoints = Math.max(2, ...runs.map((run) => run.steps.step.length));
const largestAmount = Math.max(1, Math.floor(Math.log2(mostPoints / 2)));
state.amount = Math.max(1, Math.min(largestAmount, Math.round(Math.log2(mostPoints / 24))));
const points = () => 2 ** state.amount;
const spacing = () => {
  const { step } = runs[0].steps;
  return step.length > 1 ? (step[step.length - 1] - step[0]) / (step.length - 1) : 1;
};
const saySmoothing = () => {
  const off = state.smoothing === "none" || state.measure === "bits_per_byte";
  $("smoothing").disabled = state.measure === "bits_per_byte";
  $("amount").disabled = off;
  const steps = Math.round(+(points() * spacing()).toPrecision(2)).toLocaleString("en");
  $("amount-said").textContent = off ? "" : `${steps} steps`;
  $("amount").setAttribute("aria-valuetext", off ? "off" : `${steps} steps`);
  const thinned = runs.filter((run) => run.logged > run.steps.step.length).map((run) =>
    `${several ? `${run.name}: ` : ""}${run.steps.step.length.toLocaleString("en")} of ` +
    `${run.logged.toLocaleString("en")} logged steps are drawn: evenly spaced ones, and the lowest and highest of each stretch.`);
  const what = state.measure === "bits_per_byte"
    ? "Each circle is an evaluation. Training losses are per token, so they are not in this curve."
    : `Dots: the train ${state.measure} of each logged step, as it was. ` + (
      state.smoothing === "none" ? "No smoothing."
        : state.smoothing === "exponential"
          ? `Line: their exponential mean, half-life ${steps} steps; it lags behind by about that much.`
          : `Line: their centred mean over ${steps} steps; it averages later steps too.`) +
      " Circles: the holdout, never smoothed." +
      (state.measure === "perplexity" && state.smoothing !== "none" ? " The loss is smoothed before it is turned into perplexity." : "");
  $("smoothing-said").textContent = [what, ...thinned].join(" ");
};

// ---- colours ------------------------------------------------------------------------------
const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
const isDark = () => root.dataset.theme === "dark";
const paint = () => {
  paintPage();
  $("attention")?.contentWindow?.postMessage({ theme: root.dataset.theme }, "*");
};
const runColour = (i) => colour(`run-${i % 8}`);
const faint = (hex) => `${hex}66`;
const depth = (i, n) => {
  const hue = 265 - (n > 1 ? (225 * i) / (n - 1) : 0);
  return `hsl(${Math.round(hue)} ${isDark() ? 62 : 70}% ${isDark() ? 66 : 38}%)`;
};
const dashes = [[], [8, 4], [2, 3], [10, 3, 2, 3]];

// ---- series ---------------------------------------------------------------------------------
const measured = (losses) => (state.measure === "perplexity"
  ? losses.map((v) => (v === null ? null : Math.exp(v))) : losses);
const called = (run, name) => (several ? `${run.name}, ${name}` : name);
const lossSeries = () => runs.flatMap((run, i) => {
  const steps = run.steps, x = steps[state.axis], of = run.evaluations;
  const train = runColour(i), holdout = several ? train : runColour(1), dash = dashes[Math.floor(i / 8) % 4];
  const found = [];
  if (state.measure !== "bits_per_byte") {
    found.push({ name: called(run, `train ${state.measure}`), kind: "dots", x, y: measured(steps.loss), colour: faint(train) });
    if (state.smoothing !== "none") {
      found.push({ name: called(run, "train, smoothed"), kind: "line", x, y: measured(smooth(steps.loss, points())), colour: train, width: 2, dash });
    }
  }
  const y = state.measure === "loss" ? of.holdout_loss : of[state.measure];
  found.push({ name: called(run, `holdout ${state.measure === "bits_per_byte" ? "bits per byte" : state.measure}`),
    kind: "circles", x: of[state.axis], y, colour: holdout, width: several ? 2 : 1.5, dash });
  return found;
});
const rateSeries = () => runs.map((run, i) => ({
  name: called(run, "learning rate"), kind: "line", x: run.steps[state.axis], y: run.steps.learning_rate, colour: runColour(i), width: 2,
}));
const wholeNorm = () => runs.map((run, i) => ({
  name: called(run, "whole model"), kind: "line", x: run.steps[state.axis], y: run.steps.gradient_norm, colour: runColour(i), width: 1.5,
}));
const layerSeries = (of) => {
  const blocks = of.layers.filter((one) => one.name.startsWith("layer "));
  let others = 0;
  return of.layers.map((one) => {
    const block = blocks.indexOf(one);
    return block >= 0
      ? { name: one.name, kind: "line", x: of[state.axis], y: one.values, colour: depth(block, blocks.length), width: 1.5 }
      : { name: one.name, kind: "line", x: of[state.axis], y: one.values, colour: colour("muted"), width: 1.5, dash: dashes[1 + (others++ % 3)] };
  });
};

// ---- a chart ----------------------------------------------------------------------------------
const ticks = (low, high) => {
  // 1, 2, 5 of each decade; within less than a decade, even steps.
  const found = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
    for (const m of [1, 2, 5]) if (m * 10 ** e >= low && m * 10 ** e <= high) found.push(m * 10 ** e);
  }
  if (found.length >= 3) {
    const decades = found.filter((v) => Math.abs(Math.log10(v) % 1) < 1e-9);
    return found.length > 9 && decades.length > 2 ? decades : found;
  }
  const rough = (high - low) / 5, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * unit).find((s) => s >= rough);
  const even = [];
  for (let v = Math.ceil(low / step) * step; v <= high; v += step) even.push(+v.toPrecision(10));
  return even;
};
const padded = (low, high, log) => {
  if (low === null || high === null) return log ? [0.1, 1] : [0, 1];
  if (log) { const pad = Math.max((high / low) ** 0.05, 1.02); return [low / pad, high * pad]; }
  const pad = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low - pad < 0 && low >= 0 ? 0 : low - pad, high + pad];
};
const extent = () => {
  const ends = runs.flatMap((run) => [...run.steps[state.axis], ...run.evaluations[state.axis]]).filter((v) => v !== null);
  return [0, ends.reduce((a, b) => Math.max(a, b), 1)];
};
const mark = (series) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("width", "26"); svg.setAttribute("height", "10"); svg.setAttribute("aria-hidden", "true");
  const draw = (tag, attributes) => {
    const part = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, given] of Object.entries(attributes)) part.setAttribute(name, given);
    svg.append(part);
  };
  if (series.kind === "dots") for (const x of [4, 13, 22]) draw("circle", { cx: x, cy: 5, r: 2, fill: series.colour });
  else draw("line", { x1: 1, x2: 25, y1: 5, y2: 5, stroke: series.colour, "stroke-width": 2, "stroke-dasharray": (series.dash || []).join(" ") });
  if (series.kind === "circles") draw("circle", { cx: 13, cy: 5, r: 3, fill: colour("paper"), stroke: series.colour, "stroke-width": 1.5 });
  return svg;
};

class Chart {
  constructor(id, name, height, series, options = {}) {
    this.figure = $(id);
    this.canvas = this.figure.querySelector(".canvas");
    this.readout = this.figure.querySelector(".readout");
    this.id = id; this.name = name; this.height = height; this.series = series; this.options = options;
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.canvas);
  }

  size() {
    const width = Math.max(200, this.canvas.clientWidth);
    return { width, height: Math.round(width < 560 ? this.height * 0.8 : this.height) };
  }

  draw() {
    const log = this.options.log ? state.log[this.options.log] : false;
    if (this.options.title) this.name = this.figure.querySelector(".name").textContent = this.options.title();
    const shown = this.series().filter((one) => one.x.length);
    const drawable = (v) => (v === null || (log && v <= 0) ? null : v);
    this.shown = shown;
    const tables = shown.map((one) => [one.x, one.y.map(drawable)]);
    const joined = tables.length ? uPlot.join(tables) : [[0], [null]];
    const ink = colour("muted"), rule = colour("rule"), paper = colour("paper");
    const font = `12px ${colour("sans")}`;
    const axis = { stroke: ink, grid: { stroke: rule, width: 1 }, ticks: { stroke: rule, width: 1, size: 5 }, font };
    this.plot?.destroy();
    this.figure.hidden = !shown.length;
    if (!shown.length) { this.plot = null; return; }
    this.plot = new uPlot({
      ...this.size(),
      legend: { show: false },
      cursor: { sync: { key: "run", scales: ["x", null] }, drag: { x: true, y: false }, points: { size: 7 }, y: false },
      scales: {
        x: { time: false, range: (plot, low, high) => (low === null ? [0, 1] : low === high ? [low - 1, high + 1] : [low, high]) },
        y: { distr: log ? 3 : 1, range: (plot, low, high) => padded(low, high, log) },
      },
      axes: [
        { ...axis, size: 34, values: (plot, splits) => splits.map(axes[state.axis].write) },
        { ...axis, size: 58, values: (plot, splits) => splits.map((v) => (v === null ? "" : short(v))),
          ...(log ? { splits: (plot, i, low, high) => ticks(low, high), filter: (plot, splits) => splits } : {}) },
      ],
      series: [{}, ...shown.map((one) => ({
        label: one.name, show: !state.hidden.has(one.name), stroke: one.colour, width: one.width || 0,
        dash: one.dash || [], spanGaps: true,
        ...(one.kind === "dots" ? { paths: () => null, points: { show: true, size: 4, width: 0, fill: one.colour, stroke: one.colour } }
          : one.kind === "circles" ? { points: { show: true, size: 7, width: 1.5, fill: paper, stroke: one.colour } }
            : { points: { show: one.y.filter((v) => v !== null).length < 2 } }),
      }))],
      hooks: {
        setScale: [(plot, key) => { if (key === "x") this.zoomed(plot); }],
        setCursor: [(plot) => this.read(plot)],
        draw: this.options.events ? [(plot) => drawEvents(plot)] : [],
      },
    }, joined, this.canvas);
    this.figure.dataset.scale = log ? "log" : "linear";
    this.data = joined;
    this.legend();
    const [min, max] = state.zoom ?? extent();
    this.plot.setScale("x", { min, max });
    this.label();
  }

  legend() {
    this.figure.querySelector(".legend").replaceChildren(...this.shown.map((one, i) => node("button", {
      type: "button", "aria-pressed": String(!state.hidden.has(one.name)),
      onclick: (event) => {
        const hide = !state.hidden.has(one.name);
        if (hide) state.hidden.add(one.name); else state.hidden.delete(one.name);
        this.plot.setSeries(i + 1, { show: !hide });
        event.currentTarget.setAttribute("aria-pressed", String(!hide));
      },
    }, mark(one), one.name)));
  }

  label() {
    const ends = this.shown.map((one) => {
      const known = one.y.filter((v) => v !== null);
      return known.length && one.kind !== "dots" ? `${one.name} from ${exact(known[0])} to ${exact(known[known.length - 1])}` : null;
    }).filter(Boolean).slice(0, 8).join("; ");
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-roledescription", "curve");
    this.canvas.setAttribute("aria-label", `${this.name}: ${ends}. Arrow keys read out points.`);
  }

  zoomed(plot) {
    const { min, max } = plot.scales.x;
    this.figure.dataset.from = min; this.figure.dataset.to = max;
    if (zooming || min === undefined) return;
    const x = this.data[0], whole = min <= x[0] && max >= x[x.length - 1];
    // A chart can't be given another scale from within this hook.
    if (whole) queueMicrotask(() => zoomTo(null));
    else zoomTo([min, max], this);
  }

  /** The value of a series nearest to a place on the axis. */
  nearest(index, place) {
    const values = this.data[index + 1], x = this.data[0];
    for (let far = 0; far < x.length; far++) {
      for (const i of [place - far, place + far]) {
        if (values[i] !== null && values[i] !== undefined) return [x[i], values[i]];
      }
    }
    return null;
  }

  read(plot) {
    const place = plot.cursor.idx;
    if (place === null || place === undefined || plot.cursor.left < 0) return;
    this.place = place;
    this.readout.textContent = this.words(place);
  }

  words(place) {
    const x = this.data[0][place];
    const found = this.shown.map((one, i) => {
      if (state.hidden.has(one.name)) return null;
      const near = this.nearest(i, place);
      if (!near) return null;
      return `${one.name} ${exact(near[1])}${near[0] === x || one.kind !== "circles" ? "" : ` (${at(near[0])})`}`;
    }).filter(Boolean);
    return `${at(x)}: ${found.join(", ")}`;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.plot) return;
    const x = this.data[0], last = x.length - 1;
    const { min, max } = this.plot.scales.x;
    const inside = x.map((v, i) => i).filter((i) => x[i] >= min && x[i] <= max);
    if (!inside.length) return;
    const now = inside.includes(this.place) ? this.place : null;
    const leap = Math.max(1, Math.round(inside.length / 10));
    const moves = {
      ArrowRight: now === null ? inside[0] : now + 1, ArrowLeft: now === null ? inside[inside.length - 1] : now - 1,
      PageDown: (now ?? 0) + leap, PageUp: (now ?? last) - leap, Home: inside[0], End: inside[inside.length - 1],
    };
    if (event.key in moves) {
      const place = Math.max(inside[0], Math.min(inside[inside.length - 1], moves[event.key]));
      this.place = place;
      this.plot.setCursor({ left: this.plot.valToPos(x[place], "x"), top: 20 });
      this.readout.textContent = this.words(place);
      say(this.readout.textContent);
    } else if (event.key === "+" || event.key === "=") zoomBy(0.5, x[this.place]);
    else if (event.key === "-" || event.key === "−") zoomBy(2, x[this.place]);
    else if (event.key === "0") zoomTo(null);
    else return;
    event.preventDefault();
  }
}
