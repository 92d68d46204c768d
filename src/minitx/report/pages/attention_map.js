// ---- what the page was given -------------------------------------------------------------
const bytes = (id) => Uint8Array.from(atob($(id).textContent.trim()), (c) => c.charCodeAt(0));
const quantised = bytes("weights");
const lengths = new Float32Array(bytes("lengths").buffer);
const { tokens, n_layers: nLayers, n_heads: nHeads } = data;
const seq = tokens.length;
const triangle = (seq * (seq + 1)) / 2;
const roleOf = new Map(data.roles.heads.map((one) => [one.layer * nHeads + one.head, one]));

// Maps are stored one after the other: all heads, then a mean and a rollout for each layer.
// Of each only the lower triangle is kept, as the square root of the weight in 255 steps.
const squares = Float32Array.from({ length: 256 }, (_, i) => (i / 255) ** 2);
const firstOf = { head: 0, layer: nLayers * nHeads, rollout: nLayers * nHeads + nLayers };
const mapIndex = (kind, layer, head) =>
  firstOf[kind] + (kind === "head" ? layer * nHeads + head : layer);
const weight = (map, i, j) => squares[quantised[map * triangle + (i * (i + 1)) / 2 + j]];

const framed = location.protocol === "about:";

// ---- what is shown -----------------------------------------------------------------------
const state = {
  kind: "head", measure: "weight", layer: data.chosen.layer, head: data.chosen.head,
  held: null, token: 0, key: null,
};
// To begin with, a word that has many tokens before it and some after: it has more to show than
// the end of the text, or than a full stop.
state.token = Math.min(seq - 1, Math.round(0.7 * seq));
while (state.token > 0 && !/[\p{L}\p{N}]/u.test(tokens[state.token])) state.token--;
const map = () => mapIndex(state.kind, state.layer, state.head);
const byNorm = () => state.kind === "head" && state.measure === "norm";
const value = (i, j) => {
  const part = weight(map(), i, j);
  return byNorm() ? part * lengths[(state.layer * nHeads + state.head) * seq + j] : part;
};
let top = 1;
const measureTop = () => {
  top = 1;
  if (!byNorm()) return;
  top = 0;
  for (let i = 0; i < seq; i++) for (let j = 0; j <= i; j++) top = Math.max(top, value(i, j));
  top = top || 1;
};
const amount = (v) => {
  if (byNorm()) return v.toPrecision(2);
  return v >= 0.1 || v === 0 ? `${Math.round(100 * v)} %` : `${(100 * v).toFixed(1)} %`;
};

// ---- words ---------------------------------------------------------------------------------
const mapName = () => {
  if (state.kind === "head") return `layer ${state.layer}, head ${state.head}`;
  if (state.kind === "layer") return `mean of layer ${state.layer}'s heads`;
  return state.layer ? `rollout of layers 0 to ${state.layer}` : "rollout of layer 0";
};

// ---- colours ---------------------------------------------------------------------------------
const ramps = {
  light: [[247, 245, 239], [196, 216, 226], [118, 171, 201], [46, 112, 164], [18, 58, 110], [9, 25, 60]],
  dark: [[33, 35, 43], [44, 66, 105], [31, 117, 138], [88, 172, 118], [214, 196, 96], [255, 246, 200]],
};
let ramp = [];
const paint = () => {
  paintPage();
  const stops = ramps[root.dataset.theme];
  ramp = Array.from({ length: 256 }, (_, i) => {
    const at = Math.min((i / 255) * (stops.length - 1), stops.length - 1.0001);
    const low = Math.floor(at);
    return stops[low].map((c, k) => Math.round(c + (stops[low + 1][k] - c) * (at - low)));
  });
};

// ---- canvases ----------------------------------------------------------------------------------
const sheet = (at, levels) => {
  // One pixel a weight; what a token can't see stays transparent.
  const image = new ImageData(seq, seq);
  for (let i = 0, q = 0; i < seq; i++) {
    for (let j = 0; j <= i; j++, q++) {
      const [r, g, b] = ramp[levels ? levels(i, j) : quantised[at * triangle + q]];
      const p = 4 * (i * seq + j);
      image.data[p] = r; image.data[p + 1] = g; image.data[p + 2] = b; image.data[p + 3] = 255;
    }
  }
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = seq;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
};
const level = (v) => Math.round(255 * Math.sqrt(Math.min(1, v / top)));

const big = $("map");
let bigSheet = null;
let frame = { left: 0, top: 0, cell: 1 };
const drawMap = () => {
  const ratio = window.devicePixelRatio || 1;
  const width = big.parentElement.clientWidth;
  const style = getComputedStyle(root);
  const ink = style.getPropertyValue("--ink"), accent = style.getPropertyValue("--accent");
  const muted = style.getPropertyValue("--muted");
  const pen = big.getContext("2d");
  const labelled = width / (seq + 6) >= 9;
  const size = labelled ? Math.min(13, Math.max(9, (width / seq) * 0.62)) : 0;
  const font = `${size}px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace`;
  pen.font = font;
  const names = tokens.map((t) => { const v = visible(t); return v.length > 10 ? v.slice(0, 9) + "…" : v; });
  const margin = labelled ? Math.ceil(Math.max(...names.map((n) => pen.measureText(n).width))) + 8 : 0;
  const cell = (width - margin) / seq;
  const height = margin + cell * seq;
  frame = { left: margin, top: margin, cell };
  big.width = Math.round(width * ratio);
  big.height = Math.round(height * ratio);
  big.style.height = `${height}px`;
  pen.scale(ratio, ratio);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(bigSheet, margin, margin, cell * seq, cell * seq);
  const row = state.token, column = state.key;
  if (labelled) {
    pen.font = font;
    pen.textBaseline = "middle";
    for (let i = 0; i < seq; i++) {
      pen.fillStyle = i === row ? accent : i < row || seq === 1 ? ink : muted;
      pen.textAlign = "right";
      pen.fillText(names[i], margin - 6, margin + (i + 0.5) * cell);
      pen.fillStyle = i === column ? accent : i <= row ? ink : muted;
      pen.save();
      pen.translate(margin + (i + 0.5) * cell, margin - 6);
      pen.rotate(-Math.PI / 2);
      pen.textAlign = "left";
      pen.fillText(names[i], 0, 0);
      pen.restore();
    }
  }
  pen.strokeStyle = accent;
  pen.lineWidth = 1.5;
  pen.strokeRect(margin + 0.5, margin + row * cell, (row + 1) * cell - 1, Math.max(cell, 1.5));
  if (column !== null && column <= row) {
    pen.strokeRect(margin + column * cell, margin + row * cell, Math.max(cell, 2), Math.max(cell, 2));
  }
};
const drawScale = () => {
  const canvas = $("scale"), pen = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x++) {
    pen.fillStyle = `rgb(${ramp[Math.round((255 * x) / (canvas.width - 1))]})`;
    pen.fillRect(x, 0, 1, canvas.height);
  }
  $("scale-high").textContent = amount(top);
  $("scale-note").textContent = `half-way is ${amount(top / 4)}`;
};
const drawThumbs = () => {
  for (const button of $("heads").children) {
    const canvas = button.firstChild, pen = canvas.getContext("2d");
    const side = (canvas.width = canvas.height = Math.max(seq, 96));
    pen.imageSmoothingEnabled = false;
    pen.drawImage(sheet(mapIndex("head", +button.dataset.layer, +button.dataset.head)), 0, 0, side, side);
  }
};

// ---- the text --------------------------------------------------------------------------------
const spans = tokens.map(tokenSpan);
$("text").append(...spans);

const shadeText = () => {
  const glow = getComputedStyle(root);
  const rgb = glow.getPropertyValue("--glow"), onGlow = glow.getPropertyValue("--on-glow");
  spans.forEach((span, i) => {
    const seen = i <= state.token;
    const alpha = seen ? Math.sqrt(Math.min(1, value(state.token, i) / top)) : 0;
    span.style.background = alpha > 0.04 ? `rgba(${rgb},${(0.95 * alpha).toFixed(3)})` : "";
    span.style.color = alpha > 0.62 ? onGlow : "";
    span.classList.toggle("seen", alpha > 0.62);
    span.classList.toggle("later", !seen);
    span.classList.toggle("here", i === state.token);
    span.setAttribute("aria-selected", String(i === state.held));
    span.tabIndex = i === state.token ? 0 : -1;
  });
};
