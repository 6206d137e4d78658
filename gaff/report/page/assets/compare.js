// SPDX-License-Identifier: Apache-2.0
// The page of several runs: its data into charts.
"use strict";
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const G = GaffCharts, runs = data.runs;
  const element = function (id) { return document.getElementById(id); };
  const height = function (id) { return Number(element(id).dataset.height); };
  const colour = function (name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); };
  const byPlace = {};
  runs.forEach(function (run) { byPlace[run.place] = run; });

  let align = data.align, view = data.stretch ? "means" : "smooth", isLog = false;
  const axis = function () { return data.axes.find(function (one) { return one.name === align; }); };

  function lineStyle(run) {
    const few = runs.length <= 6;
    return { label: run.name, colour: run.colour, dash: run.dashed ? [6, 4] : undefined, width: run.thin ? 1 : few ? 1.8 : 1.4 };
  }

  // Where points of a run lie, given as iterations and as seconds.
  function along(run, iterations, seconds) {
    const factor = axis().factor;
    if (align === "hours") return seconds.map(function (value) { return value / factor; });
    const each = align === "tokens" ? run.tokens / factor : 1;
    return iterations.map(function (value) { return value * each; });
  }

  // Resets on the axis: between the lines around them.
  function resetPlaces(run) {
    const x = along(run, run.iteration, run.seconds);
    let next = 0;
    return run.resets.map(function (reset) {
      while (next < run.iteration.length - 1 && run.iteration[next + 1] <= reset) next += 1;
      return align === "hours" ? x[next] : along(run, [reset])[0];
    });
  }

  // A line without points that makes an axis reach from `low` to `high`.
  function reaching(low, high) {
    return { x: [low, high], columns: [[undefined, undefined]] };
  }
  const unseen = { label: "", colour: "--rule", width: 0 };

  function ends(tables) {
    return [
      Math.min.apply(null, tables.map(function (table) { return table.x[0]; })),
      Math.max.apply(null, tables.map(function (table) { return table.x[table.x.length - 1]; })),
    ];
  }

  // What stands at the cursor: every run that is there, or the one pointed at where there are many.
  function readout(names, tables, focused) {
    return function (u, index) {
      const at = u.data[0][index];
      const lines = names.map(function (name, i) {
        const x = tables[i].x, place = u.cursor.idxs[i + 1];
        if (place === null || place === undefined || at < x[0] || at > x[x.length - 1]) return null;
        const value = u.data[i + 1][place];
        return value === null || value === undefined ? null : name + "  " + G.short(value);
      });
      const one = focused && focused();
      const shown = lines.length > 8 ? (one ? [lines[one - 1]] : []) : lines;
      const told = shown.filter(function (line) { return line !== null; });
      return told.length ? [axis().label + " " + (align === "iteration" ? G.whole(at) : G.short(at))].concat(told) : null;
    };
  }

  // Draws more into a chart, after each time that it is built.
  function alsoDraw(chart, draw) {
    const build = chart.build;
    chart.build = function () {
      build();
      chart.u.hooks.draw.push(draw);
    };
    chart.build();
  }

  // The resets of each setting, whose seeds are reset alike, as a row of faint ticks at the bottom.
  const marked = runs.filter(function (run, i) {
    const same = function (other) { return other.colour === run.colour && other.dashed === run.dashed; };
    return run.resets.length && runs.findIndex(same) === i;
  });

  const rowHeight = marked.length > 6 ? 4 : 7;

  function drawResets(u) {
    const ctx = u.ctx, ratio = uPlot.pxRatio, box = u.bbox, x = u.scales.x, row = rowHeight * ratio;
    ctx.save();
    ctx.lineWidth = 1.5 * ratio;
    ctx.globalAlpha = 0.7;
    marked.forEach(function (run, i) {
      const low = box.top + box.height - (marked.length - 1 - i) * row - ratio;
      ctx.strokeStyle = colour(run.colour);
      ctx.beginPath();
      resetPlaces(run).forEach(function (at) {
        if (at < x.min || at > x.max) return;
        const px = Math.round(u.valToPos(at, "x", true)) + 0.5;
        ctx.moveTo(px, low);
        ctx.lineTo(px, low - row + 2 * ratio);
      });
      ctx.stroke();
    });
    ctx.restore();
  }

  // --- loss ---

  let focused = null, chips = [];

  function lossTables() {
    return runs.map(function (run) {
      const of = view === "means" ? run.means : run;
      return { x: along(run, of.iteration, of.seconds), columns: [view === "means" ? of.loss : run[view]] };
    }).map(function (table) { return table.x.length ? table : { x: [0], columns: [[undefined]] }; });
  }

  // Room around what is seen, and below it for the ticks.
  function lossRange(low, high, isWhole) {
    const ticks = marked.length * rowHeight / height("loss-chart");
    if (isWhole && view !== "means") return [Math.max(0, data.range[0] - ticks * (data.range[1] - data.range[0])), data.range[1]];
    const span = high - low || 0.1;
    return [Math.max(0, low - (0.08 + ticks) * span), high + 0.08 * span];
  }

  function lossSpec() {
    const tables = lossTables();
    return {
      tables: tables,
      series: runs.map(lineStyle),
      x: { label: element("difference-chart") ? undefined : axis().label },
      y: {
        label: "training loss", log: isLog,
        range: isLog ? null : lossRange,
      },
      readout: readout(runs.map(function (run) { return run.name; }), tables, function () { return focused; }),
    };
  }

  const out = element("zoom-out");
  const loss = G.lineChart(element("loss-chart"), Object.assign({
    height: height("loss-chart"), group: "runs",
    onZoom: function (isZoomed) { out.hidden = !isZoomed; },
    focus: function (index) {
      focused = index;
      chips.forEach(function (chip, i) { chip.classList.toggle("on", i + 1 === index); });
    },
  }, lossSpec()));
  alsoDraw(loss, drawResets);
  chips = G.keys(element("loss-chart-keys"), runs.map(function (run, i) {
    return { label: run.name, colour: run.colour, kind: run.dashed ? "dashed" : "line", series: i + 1 };
  }), function (item) { loss.u.setSeries(item ? item.series : null, { focus: true }); });

  // --- difference to the baseline ---

  function differenceSpec() {
    const lines = data.difference[align].filter(function (line) { return (view === "means" && line.means || line).x.length; });
    const tables = lines.map(function (line) {
      const factor = axis().factor, of = view === "means" ? line.means : line;
      return { x: of.x.map(function (x) { return x / factor; }), columns: [view === "smooth" ? of.smooth : of.value] };
    });
    const whole = ends(lossTables());
    return {
      tables: tables.concat([reaching(whole[0], whole[1])]),
      series: lines.map(function (line) { return lineStyle(byPlace[line.place]); }).concat([unseen]),
      x: { label: axis().label }, y: { label: "difference", base: 0 },
      readout: readout(lines.map(function (line) { return byPlace[line.place].name; }), tables),
    };
  }

  const difference = element("difference-chart") && G.lineChart(element("difference-chart"), Object.assign({
    height: height("difference-chart"), group: "runs",
  }, differenceSpec()));

  function show() {
    loss.update(lossSpec());
    if (difference) difference.update(differenceSpec());
  }
  out.addEventListener("click", function () { loss.whole(); });
  G.choice(element("align"), function (value) { align = value; show(); loss.whole(); });
  G.choice(element("view"), function (value) { view = value; show(); });
  G.choice(element("loss-scale"), function (value) { isLog = value === "log"; show(); });

  // --- measures by reset and by k ---

  data.measures.forEach(function (measure) {
    const place = element("measure-" + measure.name);
    if (!place) return;
    const lines = measure.lines;
    const few = lines.every(function (line) { return line.reset.length <= 60; });
    const dots = [];
    lines.forEach(function (line) {
      const shade = byPlace[line.place].colour;
      if (few) dots.push({ x: line.reset, y: line.value, colour: shade, shape: "circle", size: 3.5 });
      dots.push({ x: line.open.reset, y: line.open.value, colour: shade, shape: "circle", size: 3.5, hollow: true });
    });
    const most = Math.max.apply(null, lines.map(function (line) { return line.reset[line.reset.length - 1]; }));
    const highest = Math.max.apply(null, [0].concat(dots.map(function (dot) { return Math.max.apply(null, [0].concat(dot.y)); })));
    G.lineChart(place, {
      tables: lines.map(function (line) { return { x: line.reset, columns: [line.value] }; }).concat([reaching(0.6, most + 0.4)]),
      series: lines.map(function (line) { return Object.assign(lineStyle(byPlace[line.place]), { width: 1.4 }); }).concat([unseen]),
      x: { label: "reset" },
      y: { range: function (low, high) { return [0, Math.max(high, highest) * 1.1 || 1]; } },
      dots: dots, height: Number(place.dataset.height),
      readout: function (u, index) {
        const at = u.data[0][index];
        const told = lines.map(function (line) {
          const i = line.reset.indexOf(at), open = line.open.reset.indexOf(at), name = byPlace[line.place].name;
          if (open >= 0) return name + "  not back within " + G.whole(line.open.value[open]);
          return i < 0 || line.value[i] === null ? null : name + "  " + G.short(line.value[i]);
        }).filter(function (line) { return line !== null; });
        return told.length ? ["reset " + at].concat(told) : null;
      },
    });
  });

  data.measures.forEach(function (measure) {
    const place = element("by-k-" + measure.name);
    if (!place) return;
    const points = measure.by_k;
    const ks = Array.from(new Set(points.map(function (point) { return point.k; }))).sort(function (a, b) { return a - b; });
    const at = points.map(function (point) { return ks.indexOf(point.k); }); // equally far apart, whatever they are
    const top = Math.max.apply(null, points.map(function (point) { return point.value; }));
    G.lineChart(place, {
      tables: points.map(function (point, i) { return { x: [at[i]], columns: [[point.value]] }; })
        .concat([reaching(-0.4, ks.length - 0.6)]),
      series: points.map(function (point) { return { label: byPlace[point.place].name, colour: byPlace[point.place].colour, width: 0 }; })
        .concat([unseen]),
      x: { label: "iterations between resets (k)", format: function (v) { return v in ks ? G.whole(ks[v]) : ""; } },
      y: { range: function () { return [0, top * 1.1 || 1]; } },
      dots: points.map(function (point, i) {
        return { x: [at[i]], y: [point.value], colour: byPlace[point.place].colour, shape: "circle", size: 5, hollow: point.at_least };
      }),
      height: Number(place.dataset.height),
      readout: function (u, index) {
        const k = ks[u.data[0][index]];
        const told = points.filter(function (point) { return point.k === k; }).map(function (point) {
          return byPlace[point.place].name + "  " + (point.at_least ? "at least " : "") + G.short(point.value) + " " + measure.unit;
        });
        return told.length ? ["k = " + G.whole(k)].concat(told) : null;
      },
    });
  });

  G.follow();
})();
