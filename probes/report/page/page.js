"use strict";
(async () => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const element = (id) => document.getElementById(id);
  const minus = (text) => text.replace("-", "\u2212");
  const number = (value, digits = 3) => (value === null || value === undefined ? "unknown" : minus(value.toFixed(digits)));
  const pValue = (value) => (value !== null && value < 0.001 ? "&lt; 0.001" : number(value));
  const escaped = (text) => String(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
  const RDBU = [[0, "#053061"], [0.1, "#2166ac"], [0.25, "#67a9cf"], [0.4, "#d1e5f0"], [0.5, "#f7f7f7"], [0.6, "#fddbc7"], [0.75, "#ef8a62"], [0.9, "#b2182b"], [1, "#67001f"]];
  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b6b00", "#8a8a8a"];
  const SYMBOLS = ["circle", "square", "diamond", "cross", "x", "triangle-up", "star"];
  const quantities = content.quantities;

  // plotly.js is packed so that the file is 2 MB and not 5
  async function unpackPlotly() {
    const holder = element("plotly");
    const bytes = Uint8Array.from(atob(holder.textContent.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    holder.remove();
  }

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    return { ink: of("--ink"), soft: of("--soft"), line: of("--line"), paper: of("--paper"), accent: of("--accent") };
  }

  function layoutOf(height) {
    const c = colours();
    return {
      paper_bgcolor: c.paper, plot_bgcolor: c.paper, font: { color: c.ink, family: "system-ui, sans-serif", size: 13 },
      margin: { l: 60, r: 20, t: 30, b: 60 }, height, hoverlabel: { align: "left", font: { family: "system-ui, sans-serif" } },
    };
  }

  const axis = () => ({ gridcolor: colours().line, zerolinecolor: colours().line, linecolor: colours().line, automargin: true });
  const options = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  const at = (matrix, row, column) => (matrix === null ? null : matrix[row][column]);

  function describe(q, row, column) {
    const value = at(q.value, row, column);
    const lines = [`<b>${escaped(q.tasks[column])}</b>, layer ${escaped(q.layers[row])}`];
    const note = q.notes[`${q.layers[row]}|${q.tasks[column]}`];
    if (value === null) return [...lines, escaped(note ?? "no value")].join("<br>");
    lines.push(`${escaped(q.name)}: <b>${number(value)}</b> ${escaped(q.unit)}`);
    if (at(q.low, row, column) !== null) lines.push(`95 % over ${escaped(q.over)}: [${number(at(q.low, row, column))}, ${number(at(q.high, row, column))}]`);
    if (at(q.null, row, column) !== null) {
      const low = at(q.nullLow, row, column);
      lines.push(`by chance: ${number(at(q.null, row, column))}${low === null ? "" : `, 95 % in [${number(low)}, ${number(at(q.nullHigh, row, column))}]`}`);
    }
    if (at(q.p, row, column) !== null) lines.push(`p ${pValue(at(q.p, row, column))} corrected for all cells, ${pValue(at(q.pCell, row, column))} alone`);
    if (at(q.n, row, column) !== null) lines.push(`n ${at(q.n, row, column)}`);
    if (note) lines.push(escaped(note));
    return lines.join("<br>");
  }

  function chosen() {
    return quantities[Number(element("quantity").value)];
  }

  function order(q) {
    const columns = q.tasks.map((_, column) => column);
    if (!element("clusters").checked || q.clusters.length === 0) return columns;
    return columns.sort((a, b) => q.clusters[a].localeCompare(q.clusters[b]) || a - b);
  }

  function drawHeatmap() {
    const q = chosen(), columns = order(q), c = colours();
    const values = q.layers.map((_, row) => columns.map((column) => at(q.value, row, column)));
    const finite = values.flat().filter((value) => value !== null);
    const own = element("columns").checked;
    let shades = values, low = Math.min(...finite), high = Math.max(...finite);
    if (q.signed) { high = Math.max(Math.abs(low), Math.abs(high)); low = -high; }
    if (own) {
      const ends = columns.map((_, j) => values.map((row) => row[j]).filter((v) => v !== null)).map((v) => [Math.min(...v), Math.max(...v)]);
      shades = values.map((row) => row.map((v, j) => (v === null ? null : ends[j][1] > ends[j][0] ? (v - ends[j][0]) / (ends[j][1] - ends[j][0]) : 0.5)));
      [low, high] = [0, 1];
    }
    if (!(high > low)) [low, high] = [low - 0.5, low + 0.5];
    const traces = [{
      type: "heatmap", z: shades, x: columns.map((_, j) => j), y: q.layers.map((_, row) => row), zmin: low, zmax: high,
      colorscale: q.signed && !own ? RDBU : "Viridis", xgap: 1, ygap: 1, hoverongaps: true, hoverinfo: "text",
      text: q.layers.map((_, row) => columns.map((column) => describe(q, row, column))),
      colorbar: { title: { text: own ? "share of the task's range" : escaped(q.unit), side: "right" }, thickness: 14, outlinewidth: 0 },
    }];
    const legend = ["Grey cells have no value; the reason is shown when you point at them."];
    const shapes = [];
    if (element("marks").checked) {
      const marked = (test) => {
        const points = { x: [], y: [] };
        q.layers.forEach((_, row) => columns.forEach((column, j) => { if (test(row, column)) { points.x.push(j); points.y.push(row); } }));
        return points;
      };
      const below = (matrix, row, column) => at(matrix, row, column) !== null && at(matrix, row, column) < content.level;
      const both = [
        [marked((r, k) => below(q.p, r, k)), { symbol: "circle", size: 5, color: "#ffffff", line: { width: 1, color: "#000000" } }],
        [marked((r, k) => !below(q.p, r, k) && below(q.pCell, r, k)), { symbol: "circle-open", size: 4, color: "#888888" }],
      ];
      for (const [points, marker] of both) if (points.x.length) traces.push({ type: "scatter", mode: "markers", hoverinfo: "skip", showlegend: false, marker, ...points });
      if (q.p !== null) legend.push(`A dot marks p < ${content.level} corrected for all cells, a small ring p < ${content.level} for the cell alone.`);
      if (q.primary) {
        columns.forEach((column, j) => {
          const best = content.best[q.tasks[column]];
          if (!best) return;
          for (const layer of best.layers) {
            const row = q.layers.indexOf(layer);
            if (row >= 0) shapes.push({ type: "line", x0: j - 0.44, x1: j - 0.44, y0: row - 0.5, y1: row + 0.5, line: { color: c.ink, width: 2.5 } });
          }
          const row = q.layers.indexOf(best.layer);
          if (row >= 0) shapes.push({ type: "rect", x0: j - 0.5, x1: j + 0.5, y0: row - 0.5, y1: row + 0.5, line: { color: c.ink, width: 2.5 } });
        });
        if (Object.keys(content.best).length) legend.push("A frame marks the best layer on validation rows, a bar at the left the layers that these rows cannot tell from it (95 %).");
      }
    }
    if (element("clusters").checked && q.clusters.length) {
      columns.forEach((column, j) => {
        if (j > 0 && q.clusters[column] !== q.clusters[columns[j - 1]]) shapes.push({ type: "line", x0: j - 0.5, x1: j - 0.5, y0: -0.5, y1: q.layers.length - 0.5, line: { color: c.accent, width: 3 } });
      });
      legend.push(`Clusters, from the left: ${[...new Set(columns.map((column) => q.clusters[column]))].join(", ")}.`);
    }
    const layout = layoutOf(Math.max(320, 150 + 15 * q.layers.length));
    layout.title = { text: `${escaped(q.name)} · ${escaped(q.reading)}`, x: 0, xanchor: "left", font: { size: 14 } };
    layout.xaxis = { ...axis(), showgrid: false, zeroline: false, tickvals: columns.map((_, j) => j), ticktext: columns.map((column) => escaped(q.tasks[column])), tickangle: -40 };
    layout.yaxis = { ...axis(), showgrid: false, zeroline: false, title: { text: "layer" }, ...layerTicks(q.layers) };
    layout.plot_bgcolor = c.line; // shows through cells without a value
    layout.shapes = shapes;
    element("heatmap-legend").textContent = legend.join(" ");
    return Plotly.react("heatmap-plot", traces, layout, options);
  }

  function layerTicks(layers) {
    const step = Math.max(1, Math.ceil(layers.length / (window.innerWidth < 640 ? 8 : 20)));
    const shown = layers.map((_, row) => row).filter((row) => row % step === 0 || row === layers.length - 1);
    return { tickvals: shown, ticktext: shown.map((row) => escaped(layers[row])) };
  }

  function drawProfile() {
    const q = chosen(), column = Math.max(0, q.tasks.indexOf(element("task").value)), c = colours();
    const x = q.layers.map((_, row) => row), over = (matrix) => x.map((row) => at(matrix, row, column));
    const band = (low, high, colour, name) => [
      { x, y: over(low), mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false },
      { x, y: over(high), mode: "lines", line: { width: 0 }, fill: "tonexty", fillcolor: colour, name, hoverinfo: "skip" },
    ];
    const traces = [];
    if (q.nullLow !== null) traces.push(...band(q.nullLow, q.nullHigh, "rgba(130,130,130,0.22)", "95 % of values by chance"));
    if (q.low !== null) traces.push(...band(q.low, q.high, "rgba(0,114,178,0.25)", `95 % interval over ${escaped(q.over)}`));
    if (q.null !== null) traces.push({ x, y: over(q.null), mode: "lines", line: { color: c.soft, dash: "dash", width: 1.5 }, name: "mean by chance", hoverinfo: "skip" });
    traces.push({ x, y: over(q.value), mode: "lines+markers", line: { color: c.accent, width: 2 }, marker: { size: 5 }, name: escaped(q.name), text: x.map((row) => describe(q, row, column)), hoverinfo: "text" });
    const shapes = [], best = q.primary ? content.best[q.tasks[column]] : undefined;
    let legend = `${q.tasks[column]}: ${q.name} at every layer.`;
    if (best) {
      for (const layer of best.layers) {
        const row = q.layers.indexOf(layer);
        if (row >= 0) shapes.push({ type: "rect", xref: "x", yref: "paper", x0: row - 0.5, x1: row + 0.5, y0: 0, y1: 0.03, fillcolor: "#d55e00", line: { width: 0 } });
      }
      const row = q.layers.indexOf(best.layer);
      if (row >= 0) traces.push({ x: [row], y: [at(q.value, row, column)], mode: "markers", marker: { symbol: "circle-open", size: 13, color: "#d55e00", line: { width: 2.5 } }, name: "best layer on validation rows", hoverinfo: "skip" });
      legend += ` Layers that may be the best one: ${best.text || best.layer}.`;
    }
    const layout = layoutOf(400);
    layout.xaxis = { ...axis(), title: { text: "layer" }, ...layerTicks(q.layers) };
    layout.yaxis = { ...axis(), title: { text: escaped(q.unit || q.name) } };
    layout.legend = { orientation: "h", y: -0.25 };
    layout.shapes = shapes;
    element("profile-legend").textContent = legend;
    return Plotly.react("profile-plot", traces, layout, options);
  }

  function drawPair() {
    const pair = content.pairs[Number(element("pair").value)];
    const text = pair.xLayers.map((a, i) => pair.yLayers.map((b, j) => `${escaped(pair.xName)} layer ${escaped(a)}<br>${escaped(pair.yName)} layer ${escaped(b)}<br><b>${number(at(pair.value, i, j))}</b> ${escaped(pair.unit)}${pair.n ? `<br>n ${pair.n}` : ""}`));
    const layout = layoutOf(560);
    layout.xaxis = { ...axis(), title: { text: escaped(pair.yName) }, ...layerTicks(pair.yLayers) };
    layout.yaxis = { ...axis(), title: { text: escaped(pair.xName) }, ...layerTicks(pair.xLayers) };
    const trace = { type: "heatmap", z: pair.value, x: pair.yLayers.map((_, j) => j), y: pair.xLayers.map((_, i) => i), text, hoverinfo: "text", colorscale: "Viridis", colorbar: { title: { text: escaped(pair.quantity) }, thickness: 14, outlinewidth: 0 } };
    element("pairs-plot").setAttribute("aria-label", `${pair.quantity} of all pairs of layers of ${pair.xName} and ${pair.yName}, ${pair.task}`);
    return Plotly.react("pairs-plot", [trace], layout, options);
  }

  function drawMap() {
    const map = content.maps[Number(element("map").value)], tasks = [...new Set(map.tasks)];
    const traces = tasks.map((task, index) => {
      const points = map.points.filter((_, i) => map.tasks[i] === task);
      return { type: "scatter", mode: "markers", name: escaped(task), x: points.map((p) => p[0]), y: points.map((p) => p[1]), hoverinfo: "name", marker: { size: 6, color: COLOURS[index % COLOURS.length], symbol: SYMBOLS[Math.floor(index / COLOURS.length) % SYMBOLS.length] } };
    });
    const layout = layoutOf(560);
    layout.xaxis = { ...axis(), showticklabels: false, zeroline: false, scaleanchor: "y" };
    layout.yaxis = { ...axis(), showticklabels: false, zeroline: false };
    layout.title = { text: `silhouette of tasks ${number(map.silhouette, 2)}`, x: 0, font: { size: 13 } };
    return Plotly.react("map-plot", traces, layout, options);
  }

  function drawNumbers() {
    const q = chosen(), columns = order(q);
    if (!element("numbers").open) return;
    const head = `<tr><th>layer</th>${columns.map((column) => `<th>${escaped(q.tasks[column])}</th>`).join("")}</tr>`;
    const cell = (row, column) => {
      const low = at(q.low, row, column);
      return `<td class="n">${at(q.value, row, column) === null ? "" : number(at(q.value, row, column))}${low === null ? "" : ` [${number(low, 2)}, ${number(at(q.high, row, column), 2)}]`}</td>`;
    };
    element("numbers-table").innerHTML = `<table><thead>${head}</thead><tbody>${q.layers.map((layer, row) => `<tr><th scope="row">${escaped(layer)}</th>${columns.map((column) => cell(row, column)).join("")}</tr>`).join("")}</tbody></table>`;
  }

  function fill(select, entries) {
    for (const [value, label, group] of entries) {
      let parent = select;
      if (group) {
        parent = [...select.children].find((child) => child.label === group);
        if (!parent) { parent = document.createElement("optgroup"); parent.label = group; select.append(parent); }
      }
      const option = document.createElement("option");
      option.value = value;
      option.textContent = label;
      parent.append(option);
    }
  }

  function fillTasks() {
    const select = element("task"), before = select.value, tasks = chosen().tasks;
    select.replaceChildren();
    fill(select, tasks.map((task) => [task, task]));
    select.value = tasks.includes(before) ? before : tasks[0];
  }

  function move(step) {
    const select = element("task");
    select.selectedIndex = (select.selectedIndex + step + select.options.length) % select.options.length;
    drawProfile();
  }

  function redraw() {
    const drawn = quantities.length ? [drawHeatmap(), drawProfile(), drawNumbers()] : [];
    if (content.pairs.length) drawn.push(drawPair());
    if (content.maps.length) drawn.push(drawMap());
    return Promise.all(drawn);
  }

  function setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    element("theme").textContent = theme === "dark" ? "Light" : "Dark";
    element("theme").setAttribute("aria-pressed", String(theme === "dark"));
    return redraw();
  }

  for (const part of document.querySelectorAll("[data-needs]")) part.hidden = content[part.dataset.needs].length === 0;
  for (const id of ["heatmap", "profile"]) element(id).hidden = quantities.length === 0;
  await unpackPlotly();
  fill(element("quantity"), quantities.map((q, index) => [index, q.primary ? q.name : `${q.name} (${q.reading})`, q.kind]));
  fill(element("pair"), content.pairs.map((pair, index) => [index, pair.task, pair.quantity]));
  fill(element("map"), content.maps.map((map, index) => [index, `layer ${map.layer}`, map.role]));
  if (quantities.length) {
    element("quantity").value = content.start;
    fillTasks();
  }
  element("quantity").addEventListener("change", () => { fillTasks(); drawHeatmap(); drawProfile(); drawNumbers(); });
  for (const id of ["marks", "columns", "clusters"]) element(id).addEventListener("change", () => { drawHeatmap(); drawNumbers(); });
  element("task").addEventListener("change", drawProfile);
  element("previous-task").addEventListener("click", () => move(-1));
  element("next-task").addEventListener("click", () => move(1));
  element("pair").addEventListener("change", drawPair);
  element("map").addEventListener("change", drawMap);
  element("numbers").addEventListener("toggle", drawNumbers);
  element("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  await setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.documentElement.dataset.ready = "true";
})();
