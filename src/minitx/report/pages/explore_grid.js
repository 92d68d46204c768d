// ---- a matrix as a picture that can be walked cell by cell, and read as a table ------------------
const floats = (packed) => {
  const text = atob(packed), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Float32Array(bytes.buffer);
};
const shown = (v) => (v === -Infinity ? "−∞" : Math.abs(v) >= 1e5 || (v && Math.abs(v) < 1e-3)
  ? v.toExponential(3) : v.toPrecision(5)).replace(/-/, "−");
const bar = (part, below = false) => {
  // A style attribute in markup would be refused by the page's own policy; a property is not.
  const made = node("span", { class: below ? "bar below" : "bar" });
  made.style.width = `${(100 * Math.min(1, part)).toFixed(1)}%`;
  return made;
};
const cells = (tag, ...contents) => node("tr", {}, ...contents.map((content, i) =>
  node(i ? tag : "th", i ? {} : { scope: "row" }, content)));
const rgb = (text) => text.startsWith("#") ? [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16)) : text.split(",").map(Number);
const grids = new Set();

// Draws into `host`. A grid has `rows` and `columns` (names), `values` (row by row), a `name`;
// `pick(row, column)` is called for a click or Enter.
const drawGrid = (host, { rows, columns, values, name, pick = null }) => {
  const canvas = node("canvas", { "aria-hidden": "true" });
  const readout = node("p", { class: "readout" });
  const table = node("table");
  const row = node("details", {}, node("summary", {}, "The row as a table"), node("div", { class: "wide" }, table));
  const group = node("div", { class: "grid", tabindex: 0, role: "group", "aria-label": `${name}. Arrow keys walk from number to number.` }, canvas);
  host.replaceChildren(group, readout, row);
  const [nRows, nColumns] = [rows.length, columns.length];
  let largest = 0;
  for (const v of values) if (Number.isFinite(v)) largest = Math.max(largest, Math.abs(v));
  const at = { row: nRows - 1, column: 0 };
  const sheet = document.createElement("canvas");
  let place = { left: 0, width: 1, height: 1 };
  const paint = () => {
    const style = getComputedStyle(root), above = rgb(style.getPropertyValue("--glow")), below = rgb(style.getPropertyValue("--below").trim());
    sheet.width = nColumns; sheet.height = nRows;
    const image = new ImageData(nColumns, nRows);
    for (let i = 0, p = 0, pixels = image.data; i < values.length; i++, p += 4) {
      const v = values[i], colour = v < 0 ? below : above;
      pixels[p] = colour[0]; pixels[p + 1] = colour[1]; pixels[p + 2] = colour[2];
      pixels[p + 3] = Number.isFinite(v) && largest ? 255 * Math.sqrt(Math.abs(v) / largest) : 0;
    }
    sheet.getContext("2d").putImageData(image, 0, 0);
  };
  const draw = () => {
    const ratio = window.devicePixelRatio || 1, width = group.clientWidth;
    if (!width) return;
    const style = getComputedStyle(root), pen = canvas.getContext("2d");
    const height = Math.max(5, Math.min(22, 420 / nRows)), font = `${Math.min(13, height * 0.75)}px monospace`;
    pen.font = font;
    const labelled = height >= 11;
    const names = rows.map((one) => (one.length > 14 ? `${one.slice(0, 13)}…` : one));
    const left = labelled ? Math.min(width / 3, Math.max(...names.map((one) => pen.measureText(one).width)) + 8) : 0;
    const cell = Math.min(44, (width - left) / nColumns);
    place = { left, width: cell, height };
    canvas.width = width * ratio; canvas.height = nRows * height * ratio;
    canvas.style.height = `${nRows * height}px`;
    pen.scale(ratio, ratio);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(sheet, left, 0, cell * nColumns, height * nRows);
    pen.font = font;
    pen.fillStyle = style.getPropertyValue("--muted");
    pen.textBaseline = "middle";
    if (labelled) names.forEach((one, i) => pen.fillText(one, 0, (i + 0.5) * height));
    pen.strokeStyle = style.getPropertyValue("--rule");
    pen.strokeRect(left, 0, cell * nColumns, height * nRows);
    pen.strokeStyle = style.getPropertyValue("--ink");
    pen.lineWidth = 1.5;
    pen.strokeRect(left + at.column * cell, at.row * height, Math.max(cell, 2), height);
  };
  const fill = () => table.replaceChildren(node("caption", { class: "hidden" }, rows[at.row]),
    node("tbody", {}, ...columns.map((one, j) => cells("td", one, shown(values[at.row * nColumns + j])))));
  const tell = (aloudToo) => {
    draw();
    readout.textContent = `${rows[at.row]}, ${columns[at.column]}: ${shown(values[at.row * nColumns + at.column])}`;
    if (row.open) fill();
    if (aloudToo) $("said").textContent = readout.textContent;
  };
  let waiting = 0;
  const from = (event) => {
    const box = canvas.getBoundingClientRect();
    at.row = Math.max(0, Math.min(nRows - 1, Math.floor((event.clientY - box.top) / place.height)));
    at.column = Math.max(0, Math.min(nColumns - 1, Math.floor((event.clientX - box.left - place.left) / place.width)));
  };
  canvas.addEventListener("pointermove", (event) => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => { from(event); tell(false); });
  });
  canvas.addEventListener("click", (event) => { from(event); tell(true); if (pick) pick(at.row, at.column); });
  group.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0], Home: [0, -nColumns], End: [0, nColumns] };
    if (event.key === "Enter" && pick) { pick(at.row, at.column); return; }
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    at.row = Math.max(0, Math.min(nRows - 1, at.row + steps[event.key][0]));
    at.column = Math.max(0, Math.min(nColumns - 1, at.column + steps[event.key][1]));
    tell(true);
  });
  row.addEventListener("toggle", () => { if (row.open) fill(); });
  const grid = { group, draw, repaint: () => { paint(); draw(); } };
  for (const old of grids) if (!old.group.isConnected) grids.delete(old);
  grids.add(grid);
  paint();
  tell(false);
};
addEventListener("resize", () => grids.forEach((grid) => grid.draw()));
