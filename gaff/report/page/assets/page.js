// SPDX-License-Identifier: Apache-2.0
// The report page of one run: its data into charts.
"use strict";
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const G = GaffCharts, curve = data.curve, resets = [], numbers = []; // of resets: iterations, numbers
  data.resets.forEach(function (span) { // number, iteration, count, step
    for (let i = 0; i < span[2]; i += 1) {
      numbers.push(span[0] + i);
      resets.push(span[1] + i * span[3]);
    }
  });
  const element = function (id) { return document.getElementById(id); };
  const height = function (id) { return Number(element(id).dataset.height); };

  // How many resets were made before this iteration, by halving.
  function resetsBefore(iteration) {
    let low = 0, high = resets.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (resets[middle] < iteration) low = middle + 1; else high = middle;
    }
    return low;
  }

  function sinceReset(iteration) {
    const count = resetsBefore(iteration);
    return count ? [G.whole(iteration - resets[count - 1]) + " after reset " + numbers[count - 1]] : [];
  }

  // Points with a gap behind each reset: across it no line of losses is drawn, while that of learning rates goes on.
  function withGaps(iterations, losses, others) {
    const x = [], cut = losses.map(function () { return []; }), whole = others.map(function () { return []; });
    let next = 0;
    iterations.forEach(function (iteration, i) {
      while (next < resets.length && resets[next] < iteration) {
        if (x.length) {
          x.push(Math.max(resets[next], x[x.length - 1]) + 0.5);
          cut.forEach(function (column) { column.push(null); });
          whole.forEach(function (column) { column.push(undefined); });
        }
        while (next < resets.length && resets[next] < iteration) next += 1;
      }
      x.push(iteration);
      losses.forEach(function (column, k) { cut[k].push(column[i]); });
      others.forEach(function (column, k) { whole[k].push(column[i] === null ? undefined : column[i]); });
    });
    return { x: x, losses: cut, others: whole };
  }

  // At a gap the cursor reads the line before it.
  function lineAt(column, index) {
    return index > 0 && (column[index] === null || column[index] === undefined) ? index - 1 : index;
  }

  const marks = { at: resets, colour: "--reset", label: function (i) { return "reset " + numbers[i]; } };
  const bare = { at: resets, colour: "--reset" };

  // --- loss and learning rate ---

  const points = withGaps(curve.iteration, [curve.loss, curve.smooth], [curve.rate, curve.ms]);
  const smooth = points.losses[1];
  // Where a piece has too few points for a mean, the losses themselves are the strong line.
  const strong = smooth.map(function (value, i) { return value === null ? points.losses[0][i] : value; });
  const isSmoothed = smooth.some(function (value) { return value !== null; });

  // So many segments that each is a few pixels wide: their means tell more than what happens in them.
  const isMany = curve.segments.iteration.length > 0;

  function lossReadout(u, index) {
    const at = lineAt(points.losses[0], index), iteration = points.x[at];
    const lines = ["iteration " + G.whole(iteration), "loss " + G.short(points.losses[0][at])];
    if (smooth[at] !== null) lines.push("smoothed " + G.short(smooth[at]));
    const rate = points.others[0][at], ms = points.others[1][at];
    if (rate !== undefined) lines.push("learning rate " + G.short(rate));
    if (ms !== undefined) lines.push(G.short(ms) + " ms an iteration");
    return lines.concat(sinceReset(iteration));
  }

  function changeSpec(name, label) {
    const change = withGaps(data.change.iteration, [data.change[name]], []);
    return {
      tables: [{ x: change.x, columns: [change.losses[0]] }],
      series: [{ label: label, colour: "--loss", width: 1 }],
      y: { label: label, base: 0 }, dots: [], over: null, note: null,
      readout: function (u, index) {
        const at = lineAt(change.losses[0], index), value = change.losses[0][at];
        const text = name === "decrease" ? (100 * value).toPrecision(3) + "%" : G.short(value);
        return ["iteration " + G.whole(change.x[at]), label + " " + text].concat(sinceReset(change.x[at]));
      },
    };
  }

  // A line of one point has no length.
  const alone = points.x.map(function (x, i) { return i; }).filter(function (i) {
    const isGap = function (k) { return k < 0 || k >= points.x.length || points.losses[0][k] === null; };
    return !isGap(i) && isGap(i - 1) && isGap(i + 1);
  });

  const dots = [
    { x: alone.map(function (i) { return points.x[i]; }), y: alone.map(function (i) { return points.losses[0][i]; }),
      colour: "--loss", size: 2.5, bare: true },
    { x: curve.validations.map(function (v) { return v.iteration; }),
      y: curve.validations.map(function (v) { return v.loss; }), colour: "--valid", shape: "diamond",
      size: curve.validations.length > 60 ? 3 : 4.5, bare: curve.validations.length > 60 },
    { x: curve.lost, y: curve.lost.map(function () { return undefined; }), colour: "--trouble", shape: "cross", size: 3.5 },
  ];

  function lossSpec(isLog) {
    const first = curve.loss[0];
    return {
      tables: [{ x: points.x, columns: [points.losses[0], strong] }],
      series: [
        { label: "loss", colour: "--loss", width: 1, alpha: isSmoothed ? 0.35 : 0 },
        { label: "smoothed", colour: "--loss", width: points.x.length > 1500 && !isSmoothed ? 1 : 1.8, alpha: isMany ? 0.5 : 1 },
      ],
      y: {
        label: "training loss", log: isLog,
        range: isLog ? null : function (low, high, isWhole) {
          const room = (high - low || 0.1) * 0.08;
          return isWhole ? curve.range : [Math.max(0, low - room), high + room];
        },
      },
      dots: dots, readout: lossReadout,
      over: isMany ? { x: curve.segments.iteration, y: curve.segments.mean, colour: "--ink", width: 1.8 } : null,
      note: function (u) {
        return first > u.scales.y.max && u.scales.x.min <= curve.iteration[0] ? "begins at " + G.short(first) : null;
      },
    };
  }

  const out = element("zoom-out");
  const loss = G.lineChart(element("loss-chart"), Object.assign({
    x: {}, height: height("loss-chart"), marks: marks, group: "iterations",
    onZoom: function (isZoomed) { out.hidden = !isZoomed; },
  }, lossSpec(false)));
  G.lineChart(element("rate-chart"), {
    tables: [{ x: points.x, columns: [points.others[0]] }],
    series: [{ label: "learning rate", colour: "--quiet", width: 1.6 }],
    x: { label: "iteration" }, y: { label: "learning rate", zero: true },
    height: height("rate-chart"), marks: bare, group: "iterations",
  });
  out.addEventListener("click", function () { loss.whole(); });

  let view = "loss", isLog = false;
  const names = { difference: "change of the loss", decrease: "relative decrease" };
  function showView() {
    loss.update(view === "loss" ? lossSpec(isLog) : changeSpec(view, names[view]));
    element("loss-scale").hidden = view !== "loss";
    lossKeys();
  }
  G.choice(element("view"), function (value) { view = value; showView(); });
  G.choice(element("loss-scale"), function (value) { isLog = value === "log"; showView(); });

  function lossKeys() {
    const isLoss = view === "loss", mean = isSmoothed ? "loss, mean over a twentieth of a segment" : "loss, mean since the line before";
    const items = [{ label: isLoss ? mean : names[view] + " since the line before", colour: "--loss" }];
    if (isLoss && isSmoothed) items.push({ label: "as logged", colour: "--loss", kind: "faint" });
    if (isLoss && isMany) items.push({ label: "mean of each segment", colour: "--ink" });
    if (resets.length) items.push({ label: "reset", colour: "--reset", kind: "dashed" });
    if (isLoss && curve.validations.length) items.push({ label: "validation", colour: "--valid", kind: "diamond" });
    if (isLoss && curve.lost.length) items.push({ label: "loss not finite", colour: "--trouble", kind: "cross" });
    G.keys(element("loss-chart-keys"), items);
  }
  lossKeys();

  // --- recoveries over each other ---

  if (element("overlay-chart") && data.recoveries.lines.length) {
    const lines = data.recoveries.lines;
    const shade = function (i) { return function () { return G.rampColour(lines.length > 1 ? i / (lines.length - 1) : 0); }; };
    let level = "above", logX = false, isSmooth = true;
    const overlaySpec = function () {
      const isAbove = level === "above";
      return {
        tables: lines.map(function (line) {
          const base = isAbove ? line.before : 0, losses = isSmooth && line.smooth ? line.smooth : line.y;
          return { x: line.x, columns: [losses.map(function (y) { return base === null || y === null ? null : y - base; })] };
        }),
        series: lines.map(function (line, i) { return { label: "reset " + line.number, colour: shade(i), width: lines.length > 12 ? 1 : 1.6 }; }),
        x: { label: "iterations after the reset", log: logX },
        y: { label: isAbove ? "loss above the level before" : "training loss", base: isAbove ? 0 : undefined },
        note: null,
      };
    };
    const named = function (line) { return "reset " + line.number + ", after iteration " + G.whole(line.iteration); };
    const story = function (line) {
      return [named(line), "loss before " + G.short(line.before),
        line.back === null ? "not back" : "back after " + G.whole(line.back) + " iterations"];
    };
    let focused = null, chips = [];
    const overlay = G.lineChart(element("overlay-chart"), Object.assign({
      height: height("overlay-chart"),
      focus: function (index) {
        focused = index;
        chips.forEach(function (chip, i) { chip.classList.toggle("on", i + 1 === index); });
      },
      readout: function (u) {
        if (!focused) return null;
        const at = u.cursor.idxs[focused];
        if (at === null || at === undefined) return null;
        const told = story(lines[focused - 1]), value = G.short(u.data[focused][at]);
        told.splice(1, 0, G.whole(u.data[0][at]) + " after it: " + (level === "above" ? value + " above the level before" : "loss " + value));
        return told;
      },
    }, overlaySpec()));
    chips = G.keys(element("overlay-chart-keys"), lines.map(function (line, i) {
      return { label: String(line.number), colour: shade(i), series: i + 1 };
    }), function (item) { overlay.u.setSeries(item ? item.series : null, { focus: true }); });
    chips.forEach(function (chip, i) { chip.title = story(lines[i]).join("\n"); chip.setAttribute("aria-label", story(lines[i]).join(", ")); });
    G.choice(element("overlay-level"), function (value) { level = value; overlay.update(overlaySpec()); });
    element("overlay-smooth").hidden = lines.every(function (line) { return line.smooth === null; });
    G.choice(element("overlay-smooth"), function (value) { isSmooth = value === "smooth"; overlay.update(overlaySpec()); });
    G.choice(element("overlay-scale"), function (value) { logX = value === "log"; overlay.update(overlaySpec()); });
  }

  // --- measures by reset ---

  data.measures.forEach(function (measure) {
    const place = element("measure-" + measure.name);
    if (!place || !measure.reset.length) return;
    const ends = [measure.reset[0], measure.reset[measure.reset.length - 1]];
    const trend = measure.slope === null || !measure.tested ? null : {
      x: ends,
      y: ends.map(function (at) { return measure.median + measure.slope * (at - measure.middle); }),
      dash: measure.clear ? undefined : [4, 4],
    };
    const others = measure.open.reset.length ? { x: measure.open.reset, y: measure.open.value } : null;
    const shown = 1, open = trend ? 3 : 2;
    G.pointChart(place, {
      x: { label: "reset", values: measure.reset }, y: { values: measure.value, zero: true },
      colour: "--loss", trend: trend, others: others, height: Number(place.dataset.height),
      readout: function (u, index) {
        const value = u.data[shown][index];
        if (value !== undefined && value !== null) return ["reset " + u.data[0][index], G.short(value) + " " + measure.unit];
        const waited = others && u.data[open][index];
        return waited ? ["reset " + u.data[0][index], "not back within " + G.whole(waited)] : null;
      },
    });
  });

  // --- boundaries ---

  if (element("boundary-chart")) {
    const bars = data.boundaries;
    const parts = bars.parts.map(function (label, i) { return { label: label, colour: "--part-" + (i + 1), kind: "box" }; });
    G.barChart(element("boundary-chart"), {
      values: bars.seconds, parts: parts,
      x: { label: "after iteration", format: function (i) { return G.whole(bars.iteration[i]); } },
      y: { label: "seconds" }, height: height("boundary-chart"),
      readout: function (u, index) {
        const many = bars.iteration[index] !== bars.last[index];
        const total = bars.seconds.reduce(function (sum, part) { return sum + (part[index] || 0); }, 0);
        return [many ? "iterations " + G.whole(bars.iteration[index]) + " to " + G.whole(bars.last[index]) + ", mean"
          : "after iteration " + G.whole(bars.iteration[index]), G.short(total) + " s in all"]
          .concat(parts.map(function (part, i) { return part.label + " " + G.short(bars.seconds[i][index]) + (bars.seconds[i][index] === null ? "" : " s"); }));
      },
    });
    G.keys(element("boundary-chart-keys"), parts);
  }

  G.follow();
})();
