// SPDX-License-Identifier: Apache-2.0
// Charts of GAFF's pages, drawn by uPlot.  They take numbers and an element and know nothing of a run; colours are names
// of CSS variables, so that a chart follows the page from light to dark.
"use strict";
var GaffCharts = (function () { // eslint-disable-line no-unused-vars
  const charts = [];
  const narrow = 560; // pixels; below it, an axis takes less room

  // --- colours and numbers ---

  function colour(name) {
    return name.startsWith("--") ? getComputedStyle(document.documentElement).getPropertyValue(name).trim() : name;
  }

  function isDark() {
    return colour("--is-dark") === "1";
  }

  // From early to late: viridis without the end that the paper swallows.
  const ramp = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

  function rampColour(share) {
    const place = (isDark() ? 0.28 + 0.72 * share : 0.8 * share) * (ramp.length - 1);
    const low = Math.min(Math.floor(place), ramp.length - 2), part = place - low;
    const mixed = ramp[low].map(function (value, i) { return Math.round(value + part * (ramp[low + 1][i] - value)); });
    return "rgb(" + mixed.join(",") + ")";
  }

  function whole(value) {
    return Math.round(value).toLocaleString("en");
  }

  function short(value) {
    if (value === null || value === undefined) return "—";
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size >= 10000) return whole(value);
    if (size < 0.001) return value.toExponential(1).replace("e+", "e");
    return String(Number(value.toPrecision(4)));
  }

  function axisNumber(value) {
    const size = Math.abs(value);
    if (size >= 1e6) return short(value / 1e6) + "M";
    if (size >= 1e4) return short(value / 1e3) + "k";
    return short(value);
  }

  // --- parts of every chart ---

  function axes(spec, element) {
    const base = {
      stroke: function () { return colour("--quiet"); },
      grid: { stroke: function () { return colour("--rule"); }, width: 1 },
      ticks: { stroke: function () { return colour("--rule"); }, width: 1, size: 5 },
      font: "12px " + colour("--font"),
      labelFont: "12px " + colour("--font"),
      labelSize: 18,
    };
    const sparse = spec.x.log ? powers : null;
    return [
      Object.assign({}, base, {
        label: spec.x.label, size: 30, space: 70,
        grid: { show: false },
        incrs: spec.x.log ? undefined : wholeSteps,
        filter: sparse || undefined,
        values: function (u, splits) {
          return splits.map(function (v) { return v === null ? "" : (spec.x.format || axisNumber)(v); });
        },
      }),
      Object.assign({}, base, {
        label: spec.y.label, size: element.clientWidth < narrow ? 46 : 56, space: 34,
        splits: spec.y.log ? logSplits : undefined,
        filter: spec.y.log ? spaced : undefined,
        values: function (u, splits) {
          return splits.map(function (v) { return v === null ? "" : (spec.y.format || axisNumber)(v); });
        },
      }),
    ];
  }

  // Iterations and resets are whole numbers.
  const wholeSteps = [];
  for (let power = 1; power <= 1e12; power *= 10) wholeSteps.push(power, 2 * power, 5 * power);

  // On a logarithmic axis only powers of ten are labelled …
  function powers(u, splits) {
    return splits.map(function (v) { return Math.abs(Math.log10(v) % 1) < 1e-9 ? v : null; });
  }

  // … and where it spans less than two of them, round numbers, as many as have room.
  function spaced(u, splits) {
    if (u.scales.y.max / u.scales.y.min > 100) return powers(u, splits);
    let last = Infinity;
    return splits.map(function (v) {
      const place = u.valToPos(v, "y");
      if (last - place < 16) return null;
      last = place;
      return v;
    });
  }

  function logSplits(u, axis, low, high) {
    const splits = [];
    if (high / low > 100) {
      for (let power = Math.ceil(Math.log10(low)); power <= Math.log10(high); power += 1) splits.push(Math.pow(10, power));
      return splits;
    }
    const raw = (high - low) / 12, power = Math.pow(10, Math.floor(Math.log10(raw)));
    const step = power * [1, 2, 5, 10].find(function (n) { return n * power >= raw; });
    for (let n = Math.ceil(low / step); n * step <= high; n += 1) splits.push(Number((n * step).toPrecision(12)));
    return splits;
  }

  // The axis of the values: `range(low, high, whole)` of what is in view, or 8 percent of room.
  function yRange(spec) {
    return function (u, low, high) {
      if (low === null || low === undefined) return spec.y.log ? [1, 10] : [0, 1];
      [low, high] = withDots(u, spec.dots || [], low, high);
      const seen = u.series[0].idxs; // the scale of x itself is set later than this is asked
      const isWhole = !seen || (seen[0] <= 0 && seen[1] >= u.data[0].length - 1);
      if (spec.y.range) return spec.y.range(low, high, isWhole);
      if (spec.y.log) return [low / 1.04, high * 1.04];
      const room = (high - low || Math.abs(high) || 1) * 0.1;
      const fromZero = spec.y.zero && low >= 0;
      return [fromZero ? 0 : low - room, high + room];
    };
  }

  // The lowest and the highest of what is in view, dots among it.
  function withDots(u, dots, low, high) {
    const seen = u.series[0].idxs, x = u.data[0];
    const first = seen ? x[seen[0]] : x[0], last = seen ? x[seen[1]] : x[x.length - 1];
    dots.forEach(function (dot) {
      dot.x.forEach(function (at, i) {
        const y = dot.y[i];
        if (at < first || at > last || y === null || y === undefined) return;
        low = Math.min(low, y);
        high = Math.max(high, y);
      });
    });
    return [low, high];
  }

  // Vertical lines at positions: dashed while few are in view, short ticks where they would make a wall.
  function drawMarks(u, marks) {
    const ctx = u.ctx, ratio = uPlot.pxRatio, box = u.bbox, x = u.scales.x;
    const seen = marks.at.map(function (at, i) { return i; }).filter(function (i) {
      return marks.at[i] >= x.min && marks.at[i] <= x.max;
    });
    const room = box.width / ratio / Math.max(1, seen.length);
    const every = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 1e9].find(function (n) { return room * n > 64; });
    ctx.save();
    ctx.strokeStyle = colour(marks.colour);
    ctx.fillStyle = colour(marks.colour);
    ctx.font = 11 * ratio + "px " + colour("--font");
    ctx.textAlign = "center";
    ctx.lineWidth = ratio;
    ctx.globalAlpha = room < 6 ? 0.45 : 0.8;
    ctx.setLineDash(room < 6 ? [] : [3 * ratio, 3 * ratio]);
    ctx.beginPath();
    seen.forEach(function (i) {
      const px = Math.round(u.valToPos(marks.at[i], "x", true)) + 0.5;
      ctx.moveTo(px, box.top - (room < 6 ? 0 : 4 * ratio));
      ctx.lineTo(px, room < 6 ? box.top + 5 * ratio : box.top + box.height);
    });
    ctx.stroke();
    ctx.globalAlpha = 1;
    seen.forEach(function (i, place) {
      const isNamed = room * every > 64 && (seen.length <= 1 || (i + 1) % every === 0);
      if (!isNamed || !marks.label) return;
      const px = u.valToPos(marks.at[i], "x", true), text = marks.label(i, place);
      const half = ctx.measureText(text).width / 2;
      const held = Math.min(Math.max(px, box.left + half), box.left + box.width - half + 8 * ratio);
      ctx.fillText(text, held, box.top - 8 * ratio);
    });
    ctx.restore();
  }

  function drawDots(u, dots) {
    const ctx = u.ctx, ratio = uPlot.pxRatio, box = u.bbox;
    ctx.save();
    ctx.beginPath();
    const edge = 6 * ratio; // a dot at the edge is whole
    ctx.rect(box.left - edge, box.top - edge, box.width + 2 * edge, box.height + 2 * edge);
    ctx.clip();
    ctx.lineWidth = 1.5 * ratio;
    dots.x.forEach(function (x, i) {
      if (x < u.scales.x.min || x > u.scales.x.max || dots.y[i] === null) return;
      const y = dots.y[i] === undefined ? box.top + box.height - 6 * ratio : u.valToPos(dots.y[i], "y", true);
      ctx.beginPath();
      shape(ctx, dots.shape, u.valToPos(x, "x", true), y, (dots.size || 4) * ratio);
      ctx.fillStyle = colour(dots.hollow ? "--paper" : dots.colour);
      ctx.strokeStyle = colour(dots.hollow || dots.shape === "cross" ? dots.colour : "--paper");
      if (dots.shape !== "cross") ctx.fill();
      if (!dots.bare) ctx.stroke();
    });
    ctx.restore();
  }

  function shape(ctx, kind, x, y, r) {
    if (kind === "triangle") {
      ctx.moveTo(x, y - r);
      ctx.lineTo(x + r, y + r * 0.8);
      ctx.lineTo(x - r, y + r * 0.8);
      ctx.closePath();
    } else if (kind === "diamond") {
      ctx.moveTo(x, y - r);
      ctx.lineTo(x + r, y);
      ctx.lineTo(x, y + r);
      ctx.lineTo(x - r, y);
      ctx.closePath();
    } else if (kind === "cross") {
      ctx.moveTo(x - r, y - r);
      ctx.lineTo(x + r, y + r);
      ctx.moveTo(x + r, y - r);
      ctx.lineTo(x - r, y + r);
    } else {
      ctx.arc(x, y, r, 0, 2 * Math.PI);
    }
  }

  // A line over the others, on points of its own.
  function drawOver(u, line) {
    const ctx = u.ctx, box = u.bbox;
    ctx.save();
    ctx.beginPath();
    ctx.rect(box.left, box.top, box.width, box.height);
    ctx.clip();
    ctx.strokeStyle = colour(line.colour);
    ctx.lineWidth = (line.width || 1.5) * uPlot.pxRatio;
    ctx.lineJoin = "round";
    ctx.beginPath();
    line.x.forEach(function (x, i) { ctx.lineTo(u.valToPos(x, "x", true), u.valToPos(line.y[i], "y", true)); });
    ctx.stroke();
    ctx.restore();
  }

  // Where gaps are as close as pixels, cutting them out would take the line away with them.
  function wideGaps(u, series, first, last, gaps) {
    const few = gaps.length * 12 < u.bbox.width / uPlot.pxRatio;
    return few ? gaps : gaps.filter(function (gap) { return gap[1] - gap[0] > 4 * uPlot.pxRatio; });
  }

  // A level that means something: the one before a reset.
  function drawBase(u, level) {
    const ctx = u.ctx, y = Math.round(u.valToPos(level, "y", true)) + 0.5;
    if (y < u.bbox.top || y > u.bbox.top + u.bbox.height) return;
    ctx.save();
    ctx.strokeStyle = colour("--quiet");
    ctx.lineWidth = uPlot.pxRatio;
    ctx.beginPath();
    ctx.moveTo(u.bbox.left, y);
    ctx.lineTo(u.bbox.left + u.bbox.width, y);
    ctx.stroke();
    ctx.restore();
  }

  function drawNote(u, text) {
    const ctx = u.ctx, ratio = uPlot.pxRatio;
    ctx.save();
    ctx.fillStyle = colour("--quiet");
    ctx.font = 12 * ratio + "px " + colour("--font");
    ctx.textAlign = "left";
    ctx.fillText(text, u.bbox.left + 24 * ratio, u.bbox.top + 15 * ratio);
    ctx.restore();
  }

  // A box beside the cursor with a few lines of text.
  function readoutOf(element) {
    const box = document.createElement("output");
    box.className = "readout";
    box.hidden = true;
    element.append(box);
    return {
      box: box,
      show: function (lines, u) {
        box.hidden = !lines;
        if (!lines) return;
        box.textContent = lines.join("\n");
        const left = u.over.offsetLeft + u.cursor.left, over = left > element.clientWidth / 2;
        box.style.left = over ? "" : left + 14 + "px";
        box.style.right = over ? element.clientWidth - left + 14 + "px" : "";
        box.style.top = u.over.offsetTop + 8 + "px";
      },
    };
  }

  // Keys: arrows move the cursor, + and - zoom about it, Escape shows all.
  function listen(element, chart) {
    element.addEventListener("keydown", function (event) {
      const u = chart.u, x = u.data[0], steps = { ArrowLeft: -1, ArrowRight: 1 };
      const now = u.cursor.idx === null || u.cursor.idx === undefined ? Math.floor(x.length / 2) : u.cursor.idx;
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key in steps) {
        const low = u.valToIdx(u.scales.x.min), high = u.valToIdx(u.scales.x.max);
        const leap = event.shiftKey ? Math.max(1, Math.round((high - low) / 20)) : 1;
        point(u, Math.min(high, Math.max(low, now + steps[event.key] * leap)));
      } else if (event.key === "Home" || event.key === "End") {
        point(u, u.valToIdx(event.key === "Home" ? u.scales.x.min : u.scales.x.max));
      } else if (event.key === "+" || event.key === "=" || event.key === "-") {
        const factor = event.key === "-" ? 2 : 0.5, about = x[now];
        const all = chart.extent;
        u.setScale("x", {
          min: Math.max(all[0], about - (about - u.scales.x.min) * factor),
          max: Math.min(all[1], about + (u.scales.x.max - about) * factor),
        });
      } else if (event.key === "Escape") {
        chart.whole();
        u.setCursor({ left: -10, top: -10 });
      } else {
        return;
      }
      event.preventDefault();
    });
    element.addEventListener("blur", function () { chart.u.setCursor({ left: -10, top: -10 }); });
  }

  function point(u, index) {
    u.setCursor({ left: u.valToPos(u.data[0][index], "x"), top: u.over.clientHeight / 2 });
  }

  // --- a chart, whatever it draws ---

  // `build(chart)` gives uPlot's options and data.  A chart is built anew when its spec changes.
  function keep(element, spec, build) {
    const chart = { element: element, spec: spec, u: null, readout: readoutOf(element), extent: [0, 1], group: null };

    chart.build = function () {
      const made = build(chart);
      const x = chart.u && chart.isZoomed() ? { min: chart.u.scales.x.min, max: chart.u.scales.x.max } : null;
      if (chart.u) chart.u.destroy();
      const xs = made.data[0];
      chart.extent = [xs[0], xs[xs.length - 1]];
      chart.u = new uPlot(made.options, made.data, element);
      if (x) chart.u.setScale("x", x);
      chart.readout.show(null);
    };
    chart.isZoomed = function () {
      const x = chart.u.scales.x;
      return x.min > chart.extent[0] || x.max < chart.extent[1];
    };
    chart.whole = function () {
      chart.u.setScale("x", { min: chart.extent[0], max: chart.extent[1] });
    };
    chart.fit = function (width) {
      chart.u.setSize({ width: width || element.clientWidth, height: spec.height });
    };
    chart.update = function (change) {
      Object.assign(chart.spec, change);
      chart.build();
    };
    chart.build();
    listen(element, chart);
    charts.push(chart);
    return chart;
  }

  function commonOptions(chart, hooks) {
    const spec = chart.spec, element = chart.element;
    return {
      width: element.clientWidth, height: spec.height,
      padding: [spec.marks && spec.marks.label ? 24 : 10, 26, 0, 0],
      legend: { show: false },
      cursor: Object.assign({
        drag: { x: true, y: false, setScale: true },
        points: { size: 7, width: 1.5 },
        y: false,
      }, spec.cursor || {}),
      axes: axes(spec, element),
      hooks: Object.assign({
        setCursor: [function (u) {
          const index = u.cursor.idx;
          const isIn = u.cursor.left >= 0 && index !== null && index !== undefined;
          const lines = isIn && spec.readout ? spec.readout(u, index) : null;
          chart.readout.show(lines && lines.length ? lines : null, u);
        }],
        setScale: [function (u, key) { if (key === "x" && chart.u === u) zoomed(chart); }],
      }, hooks || {}),
    };
  }

  // Charts of one group zoom together.
  function zoomed(chart) {
    const x = chart.u.scales.x;
    charts.forEach(function (other) {
      if (other === chart || !chart.spec.group || other.spec.group !== chart.spec.group) return;
      const its = other.u.scales.x;
      if (its.min !== x.min || its.max !== x.max) other.u.setScale("x", { min: x.min, max: x.max });
    });
    if (chart.spec.onZoom) chart.spec.onZoom(chart.isZoomed());
  }

  // --- lines ---

  // spec: tables [{x, columns}], series [{label, colour, width, alpha, points}] in the order of the columns,
  // x and y {label, log, format, range, zero, base}, height, marks, dots, over, note, readout(u, index), focus(series or null), group.
  // null in a column is a gap; undefined is no point there, and the line goes on.
  function lineChart(element, spec) {
    return keep(element, spec, function (chart) {
      const tables = spec.tables.map(function (table) { return [table.x].concat(table.columns); });
      const data = tables.length === 1 ? tables[0] : uPlot.join(tables);
      const options = commonOptions(chart, {
        draw: [function (u) {
          if (spec.y.base !== undefined && !spec.y.log) drawBase(u, spec.y.base);
          if (spec.marks) drawMarks(u, spec.marks);
          if (spec.over) drawOver(u, spec.over);
          (spec.dots || []).forEach(function (dots) { drawDots(u, dots); });
          const note = spec.note && spec.note(u);
          if (note) drawNote(u, note);
        }],
        setSeries: [function (u, index) { if (spec.focus) spec.focus(index); }],
      });
      if (spec.group) options.cursor.sync = { key: spec.group, scales: ["x", null], setSeries: false };
      options.scales = {
        x: { time: false, distr: spec.x.log ? 3 : 1 },
        y: { distr: spec.y.log ? 3 : 1, range: yRange(spec) },
      };
      if (spec.focus) {
        options.focus = { alpha: 0.12 };
        options.cursor.focus = { prox: 18 };
        options.cursor.points.one = true;
      }
      options.series = [{}].concat(spec.series.map(function (series) {
        return {
          label: series.label,
          stroke: function () { return typeof series.colour === "function" ? series.colour() : colour(series.colour); },
          width: series.width || 1.5,
          alpha: series.alpha === undefined ? 1 : series.alpha,
          dash: series.dash,
          points: { show: series.points || false, size: 5 },
          gaps: wideGaps,
        };
      }));
      return { options: options, data: data };
    });
  }

  // --- points and their trend ---

  // spec: x, y {values, label …}, dots (further ones), trend {x: [a, b], y: [a, b]} or null, height, readout(u, index).
  function pointChart(element, spec) {
    return keep(element, spec, function (chart) {
      const tables = [[spec.x.values, spec.y.values]];
      if (spec.trend) tables.push([spec.trend.x, spec.trend.y]);
      if (spec.others) tables.push([spec.others.x, spec.others.y]);
      const data = tables.length === 1 ? tables[0] : uPlot.join(tables);
      const options = commonOptions(chart);
      const size = spec.x.values.length > 200 ? 3 : 6;
      const dot = { show: true, size: size, width: 0, fill: function () { return colour(spec.colour); } };
      const first = data[0][0], last = data[0][data[0].length - 1], room = Math.max(0.5, (last - first) * 0.03);
      options.cursor.drag = { x: false, y: false };
      options.scales = {
        x: { time: false, range: function () { return [first - room, last + room]; } },
        y: { range: yRange(spec) },
      };
      options.series = [{}, { stroke: function () { return colour(spec.colour); }, paths: function () { return null; }, points: dot }];
      if (spec.trend) {
        options.series.push({ stroke: function () { return colour("--ink"); }, width: 1.5, dash: spec.trend.dash, points: { show: false } });
      }
      if (spec.others) {
        const hollow = { show: true, size: size + 2, width: 1.5, stroke: function () { return colour("--reset"); }, fill: function () { return colour("--paper"); } };
        options.series.push({ stroke: function () { return colour("--reset"); }, paths: function () { return null; }, points: hollow });
      }
      return { options: options, data: data };
    });
  }

  // --- stacked bars ---

  // spec: names [..], values [[..] per part], parts [{label, colour}], x {label, format}, y, height, readout(u, index).
  function barChart(element, spec) {
    return keep(element, spec, function (chart) {
      const count = spec.values[0].length;
      const sums = new Array(count).fill(0);
      const columns = spec.values.map(function (column) {
        return column.map(function (value, i) { return (sums[i] += value || 0); });
      });
      const data = [sums.map(function (_, i) { return i; })].concat(columns.slice().reverse());
      const options = commonOptions(chart);
      options.cursor.drag = { x: false, y: false };
      options.cursor.points = { show: false };
      options.scales = {
        x: { time: false, range: function () { return [-0.6, count - 0.4]; } },
        y: { range: function (u, low, high) { return [0, (high || 1) * 1.06]; } },
      };
      options.axes[0].splits = function (u) {
        const room = u.bbox.width / uPlot.pxRatio / count;
        const every = [1, 2, 5, 10, 20, 50, 100].find(function (n) { return n * room > 56; }) || 100;
        return data[0].filter(function (i) { return i % every === 0 && (i === 0 || (count - i) * room > 20); });
      };
      options.axes[0].values = function (u, splits) { return splits.map(spec.x.format); };
      options.series = [{}].concat(spec.parts.slice().reverse().map(function (part) {
        return {
          label: part.label,
          fill: function () { return colour(part.colour); },
          stroke: function () { return colour("--paper"); },
          width: count > 60 ? 0 : 1,
          paths: uPlot.paths.bars({ size: [0.8, 42] }),
          points: { show: false },
        };
      }));
      return { options: options, data: data };
    });
  }

  // --- keys ---

  // items [{label, colour, kind: line, dashed, dot …, series}]; with `onFocus` they are buttons that name a series.
  function keys(element, items, onFocus) {
    element.textContent = "";
    const made = items.map(function (item) {
      const key = document.createElement(onFocus ? "button" : "span");
      const swatch = document.createElement("i");
      key.className = "key";
      swatch.className = item.kind || "line";
      if (typeof item.colour === "string") swatch.style.setProperty("--key", "var(" + item.colour + ")");
      key.append(swatch, item.label);
      element.append(key);
      if (onFocus) {
        key.type = "button";
        ["pointerenter", "focus"].forEach(function (name) { key.addEventListener(name, function () { onFocus(item); }); });
        ["pointerleave", "blur"].forEach(function (name) { key.addEventListener(name, function () { onFocus(null); }); });
      }
      return { key: key, swatch: swatch, item: item };
    });
    function paint() {
      made.forEach(function (one) {
        if (typeof one.item.colour === "function") one.swatch.style.setProperty("--key", one.item.colour());
      });
    }
    paint();
    painters.push(paint);
    return made.map(function (one) { return one.key; });
  }
  const painters = [];

  // --- the page around the charts ---

  function repaint() {
    painters.forEach(function (paint) { paint(); });
    charts.forEach(function (chart) { chart.u.redraw(false, true); });
  }

  // A row of buttons of which one is pressed; `chosen` is told its value.
  function choice(element, chosen) {
    if (!element) return;
    const buttons = Array.from(element.querySelectorAll("button"));
    buttons.forEach(function (button) {
      button.addEventListener("click", function () {
        buttons.forEach(function (other) { other.setAttribute("aria-pressed", String(other === button)); });
        chosen(button.value);
      });
    });
  }

  // Colours: as the system has them, light, dark.
  function themeButton(button) {
    const themes = ["auto", "light", "dark"], root = document.documentElement;
    const word = button.querySelector("span");
    button.addEventListener("click", function () {
      const next = themes[(themes.indexOf(root.dataset.theme || "auto") + 1) % themes.length];
      root.dataset.theme = next;
      word.textContent = next;
      repaint();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  }

  function sortable(table) {
    const heads = Array.from(table.querySelectorAll("th")), rows = table.tBodies[0];
    heads.forEach(function (head, column) {
      head.addEventListener("click", function () {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach(function (other) { other.setAttribute("aria-sort", "none"); });
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const value = function (row) {
          const text = row.cells[column].dataset.v;
          return text === undefined ? NaN : Number(text);
        };
        const sorted = Array.from(rows.rows).sort(function (a, b) {
          const one = value(a), two = value(b);
          if (isNaN(one) || isNaN(two)) return isNaN(one) - isNaN(two); // what is not known comes last
          return up ? one - two : two - one;
        });
        rows.append.apply(rows, sorted);
      });
    });
  }

  // On paper: light, all details open, charts as wide as the page and sharp.
  function printing() {
    const root = document.documentElement;
    let before = null;
    addEventListener("beforeprint", function () {
      const shut = Array.from(document.querySelectorAll("details:not([open])"));
      before = { theme: root.dataset.theme, shut: shut };
      shut.forEach(function (one) { one.open = true; });
      root.dataset.theme = "light";
      root.classList.add("printing");
      charts.forEach(function (chart) { chart.fit(); });
      repaint();
    });
    addEventListener("afterprint", function () {
      if (!before) return;
      before.shut.forEach(function (one) { one.open = false; });
      if (before.theme) root.dataset.theme = before.theme;
      else delete root.dataset.theme;
      root.classList.remove("printing");
      before = null;
      charts.forEach(function (chart) { chart.fit(); });
      repaint();
    });
  }

  function follow() {
    let width = document.documentElement.clientWidth;
    addEventListener("resize", function () {
      if (document.documentElement.clientWidth === width) return;
      width = document.documentElement.clientWidth;
      charts.forEach(function (chart) { chart.build(); });
    });
    printing();
    Array.from(document.querySelectorAll("table.sortable")).forEach(sortable);
    const button = document.getElementById("theme");
    if (button) themeButton(button);
  }

  return {
    lineChart: lineChart, pointChart: pointChart, barChart: barChart, keys: keys, choice: choice, follow: follow,
    rampColour: rampColour, short: short, whole: whole, charts: charts,
  };
})();
